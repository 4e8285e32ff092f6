/**
 * Which dm-user devices a daemon serves: what is written on the command line and in a configuration
 * file, and what fits together.
 *
 * @module
 */
import { CONTROL_FOLDER } from "../dm_user/constants.ts";
import { type Place, UsageError } from "../block/usage_error.ts";
import { CHANNELS_MAX, DM_USER_NAME_BYTES_MAX, ENDPOINTS_MAX } from "./limits.ts";

/** One dm-user target, and the target of the daemon that serves it. */
export interface DmUserConfig {
  /** Its name in the kernel: the control device is FOLDER/NAME. It may hold slashes. */
  readonly name: string;
  /** The name of the target that answers. */
  readonly target: string;
  /** How often the control device is opened, 1 to CHANNELS_MAX. */
  readonly channels: number;
}

/** Where the kernel puts control devices. */
export const DM_USER_FOLDER: string = CONTROL_FOLDER;

/** What is wrong with the name of a dm-user target, or null. */
export function dmUserNameProblem(name: string): string | null {
  if (name === "") return "it is empty";
  if (new TextEncoder().encode(name).length > DM_USER_NAME_BYTES_MAX) {
    return `it has more than ${DM_USER_NAME_BYTES_MAX} bytes`;
  }
  if (name.includes("\0")) return "it holds a NUL character";
  const parts = name.split("/");
  return parts.some((part) => part === "" || part === "." || part === "..")
    ? "it has to be a path below the folder of control devices"
    : null;
}

/**
 * Reads `NAME` (served by the target of the same name) or `TARGET=NAME`. Throws UsageError.
 *
 * @example
 * ```ts
 * import { parseDmUser } from "./dm_user_config.ts";
 * const { target, name } = parseDmUser("a=vg/disk", 1);
 * if (target !== "a" || name !== "vg/disk") throw new Error("misread");
 * ```
 */
export function parseDmUser(
  text: string,
  channels: number,
  place: Place | null = null,
): DmUserConfig {
  const at = text.indexOf("=");
  const name = text.slice(at + 1), target = at < 0 ? name : text.slice(0, at);
  const problem = dmUserNameProblem(name);
  if (problem === null) return { name, target, channels };
  throw new UsageError(`Cannot serve dm-user target "${name}": ${problem}`, place);
}

/** Checks what no single entry shows. Throws UsageError. */
export function checkDmUsers(
  entries: readonly DmUserConfig[],
  targets: ReadonlySet<string>,
): void {
  if (entries.length > ENDPOINTS_MAX) {
    throw new UsageError(`Cannot serve: there are more than ${ENDPOINTS_MAX} dm-user targets`);
  }
  const seen = new Set<string>();
  for (const { name, target, channels } of entries) {
    const all = [...targets].join(", ");
    const problem = seen.has(name)
      ? "it is given twice"
      : !targets.has(target)
      ? `there is no target "${target}"; write TARGET=${name} with one of ${all}`
      : !(Number.isInteger(channels) && channels >= 1 && channels <= CHANNELS_MAX)
      ? `it has 1 to ${CHANNELS_MAX} channels, not ${channels}`
      : null;
    if (problem !== null) throw new UsageError(`Cannot serve dm-user target "${name}": ${problem}`);
    seen.add(name);
  }
}
