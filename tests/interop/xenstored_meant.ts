/**
 * In what this project's XenStore differs from xenstored (C, 4.17) and is meant to.
 *
 * @module
 */
import { OPERATION } from "../../lib/xenstore/mod.ts";
import type { Answers, Step } from "./xenstored_pair.ts";

/** What both have answered. */
type Both = Pick<Answers, "theirs" | "ours">;

/** Differences that are meant: why, and how they are told. */
export const MEANT:
  readonly (readonly [reason: string, is: (step: Step, answers: Both) => boolean])[] = [
    [
      "a payload that is not one string gives EINVAL here and whatever errno was left there",
      ({ payload }, { theirs, ours }) =>
        payload.indexOf("|") !== payload.length - 1 && isError(theirs) &&
        ours[0]?.endsWith('"EINVAL|"') === true,
    ],
    [
      "so do the permissions of a special path that cannot be set",
      ({ type, payload }, { theirs, ours }) =>
        type === OPERATION.SET_PERMS && payload.startsWith("@") && isError(theirs) && isError(ours),
    ],
    [
      "CONTROL tells of this server",
      ({ type, payload }) =>
        type === OPERATION.CONTROL && /^(log|help|quota|quota-soft)\|/.test(payload),
    ],
    [
      "operations of later versions are here",
      ({ type }) => type >= OPERATION.GET_FEATURE && type <= OPERATION.SET_QUOTA,
    ],
  ];

function isError(answers: readonly string[]): boolean {
  return answers.length === 1 && answers[0]?.includes(" ERROR ") === true;
}
