/**
 * ABORT: the client ends the session. Its data are ignored.
 *
 * @module
 */
import { OPTION } from "../constants.ts";
import type { OptionHandler, OptionOutcome } from "../haggling.ts";

/** Handles NBD_OPT_ABORT. */
export const abort: OptionHandler = {
  option: OPTION.ABORT,
  handle(_data, haggling): OptionOutcome {
    haggling.ack();
    return { kind: "close", reason: "the client ended the handshake" };
  },
};
