/**
 * The CONTROL command `dmu` of the control socket: a verb with its arguments as JSON in a word of its
 * own, and a JSON text as the answer; and what is said where there is no daemon to answer. Pure.
 *
 * @module
 */
import * as v from "valibot";
import { BlockError, errnoText, isErrno, toBlockError } from "../block/errors.ts";
import type { BitmapFacts } from "../dirty_log/dirty_bitmap.ts";
import type { MirrorStatus } from "../block/types.ts";
import type { DaemonFacts } from "./control/commands.ts";
import { DAEMON_COMMAND } from "../xenstore/constants.ts";

/** An answer, or part of one. */
export type Answer = Readonly<Record<string, unknown>>;

/** The payload of a question. Characters beyond ASCII are escaped, so that bytes and characters agree. */
export function question(verb: string, args: Answer): string {
  const json = JSON.stringify({ verb, ...args }).replace(
    /[\u0080-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  return `${DAEMON_COMMAND}\0${json}\0`;
}

function isAnswer(value: unknown): value is Answer {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Reads the payload of an answer. Throws BlockError: what the daemon says, or EPROTO for no answer. */
export function answerOf(payload: Uint8Array): Answer {
  const text = new TextDecoder().decode(payload).replace(/\0$/, "");
  let answer: unknown;
  try {
    answer = JSON.parse(text);
  } catch (cause) {
    throw new BlockError(
      "EPROTO",
      `Cannot understand the daemon: it said ${JSON.stringify(text)}`,
      {
        cause,
      },
    );
  }
  if (!isAnswer(answer)) throw strange("no object");
  if (answer["ok"] === true) return answer;
  const { errno, message } = answer;
  throw new BlockError(
    typeof errno === "string" && isErrno(errno) ? errno : "EIO",
    typeof message === "string" ? message : "Cannot do it: the daemon does not say why",
  );
}

function strange(what: string): BlockError {
  return new BlockError("EPROTO", `Cannot understand the daemon: its answer has ${what}`);
}

/** A number of an answer. Throws BlockError EPROTO. */
export function numberOf(answer: Answer, key: string): number {
  const value = answer[key];
  if (typeof value === "number") return value;
  throw strange(`no number "${key}"`);
}

function textsOf(answer: Answer, key: string): string[] {
  const value = answer[key];
  return Array.isArray(value) ? value.filter((each) => typeof each === "string") : [];
}

function textOrNull(answer: Answer, key: string): string | null {
  const value = answer[key];
  return typeof value === "string" ? value : null;
}

/** The answer to `info`. */
export function infoOf(answer: Answer): DaemonFacts {
  return {
    pid: numberOf(answer, "pid"),
    version: textOrNull(answer, "version") ?? "",
    control: textsOf(answer, "control"),
    nbd: textsOf(answer, "nbd"),
    metrics: textOrNull(answer, "metrics"),
    stateDir: textOrNull(answer, "stateDir"),
    hooks: textsOf(answer, "hooks"),
    defaultTarget: textOrNull(answer, "defaultTarget"),
  };
}

function isFacts(value: unknown): value is BitmapFacts {
  if (typeof value !== "object" || value === null) return false;
  const get = (key: string): unknown => Reflect.get(value, key);
  return typeof get("name") === "string" &&
    ["persistent", "frozen"].every((key) => typeof get(key) === "boolean") &&
    ["granularity", "dirtyBytes", "newBytes"].every((key) => typeof get(key) === "number");
}

/** The answer to `bitmap`. Throws BlockError EPROTO. */
export function bitmapsOf(answer: Answer): BitmapFacts[] {
  const value = answer["bitmaps"];
  if (Array.isArray(value) && value.every(isFacts)) return value;
  throw strange('no list "bitmaps"');
}

const count = v.number(), textOrNone = v.nullable(v.string());

const mirrorSchema = v.object({
  id: textOrNone,
  log: textOrNone,
  events: count,
  regionBytes: count,
  regions: count,
  inSync: count,
  dirty: count,
  resync: v.nullable(v.object({
    done: count,
    total: count,
    rate: count,
    eta_s: v.nullable(count),
    waitsFor: textOrNone,
  })),
  legs: v.array(v.object({
    leg: count,
    spec: v.string(),
    state: v.picklist(["in-sync", "resync", "failed"]),
    error: textOrNone,
    inFlight: count,
    readBytes: count,
    writtenBytes: count,
    readErrors: count,
  })),
});

/** The answer to `mirror-show`. */
export function mirrorOf(answer: Answer): MirrorStatus {
  const result = v.safeParse(mirrorSchema, answer);
  if (result.success) return result.output;
  throw strange("no mirror");
}

/** The daemon has gone in the middle of something. */
export const GONE = "Cannot go on: the daemon has ended the connection";

/** What is wrong with a control socket that cannot be connected to. */
export function unreachable(path: string, cause: unknown): BlockError {
  const { errno } = toBlockError(cause);
  const reason = errno === "ENOENT"
    ? "there is no such socket"
    : errno === "ECONNREFUSED"
    ? "nobody listens there"
    : errno === "EACCES"
    ? "it belongs to another user"
    : errnoText(errno);
  return new BlockError(errno, `Cannot reach a daemon at unix:${path}: ${reason}`, { cause });
}

/** What a connection that was ended before its first reply fails with. */
export function refused(path: string, cause: unknown): BlockError {
  return new BlockError(
    "ECONNRESET",
    `Cannot use the daemon at unix:${path}: it has ended the connection; its log says why, users ` +
      "other than its own have to be listed under [control.users]",
    { cause },
  );
}
