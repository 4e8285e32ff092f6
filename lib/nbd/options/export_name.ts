/**
 * EXPORT_NAME: the old way into an export. It has no error reply, so whatever is wrong closes the
 * connection.
 *
 * @module
 */
import { OPTION } from "../constants.ts";
import type { OptionHandler, OptionOutcome } from "../haggling.ts";
import { decodeString, quoted } from "../text.ts";

/** Zeroes after the flags, for clients that did not do without them. */
const RESERVED_BYTES = 124;

/** Handles NBD_OPT_EXPORT_NAME. */
export const exportName: OptionHandler = {
  option: OPTION.EXPORT_NAME,
  handle(data, haggling): OptionOutcome {
    const name = decodeString(data);
    if (name === null) return { kind: "close", reason: "EXPORT_NAME with an impossible name" };
    if (haggling.extended) {
      return { kind: "close", reason: "EXPORT_NAME after extended headers were agreed on" };
    }
    const found = haggling.find(name);
    if (found.kind !== "export") {
      const why = found.kind === "unknown" ? "does not exist" : "does not exist or needs TLS";
      return { kind: "close", reason: `the export ${quoted(name)} ${why}` };
    }
    const { info } = found;
    haggling.output.u64(BigInt(info.size)).u16(haggling.flagsOf(info));
    if (!haggling.noZeroes) haggling.output.zeroes(RESERVED_BYTES);
    return { kind: "enter", state: haggling.stateOf(info, false) };
  },
};
