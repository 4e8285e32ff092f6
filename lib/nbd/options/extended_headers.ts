/**
 * EXTENDED_HEADERS: requests and replies with 64-bit lengths. It goes before structured replies.
 *
 * @module
 */
import { OPTION, REPLY } from "../constants.ts";
import type { OptionHandler, OptionOutcome } from "../haggling.ts";

/** Handles NBD_OPT_EXTENDED_HEADERS. */
export const extendedHeaders: OptionHandler = {
  option: OPTION.EXTENDED_HEADERS,
  handle(data, haggling): OptionOutcome {
    if (data.length > 0) {
      return haggling.fail(
        REPLY.ERR_INVALID,
        "Cannot agree on extended headers: EXTENDED_HEADERS takes no data",
      );
    }
    haggling.extended = true;
    return haggling.ack();
  },
};
