/**
 * STRUCTURED_REPLY: reads are answered in chunks, errors with a message.
 *
 * @module
 */
import { OPTION, REPLY } from "../constants.ts";
import type { OptionHandler, OptionOutcome } from "../haggling.ts";

/** Handles NBD_OPT_STRUCTURED_REPLY. */
export const structuredReply: OptionHandler = {
  option: OPTION.STRUCTURED_REPLY,
  handle(data, haggling): OptionOutcome {
    if (data.length > 0) {
      return haggling.fail(
        REPLY.ERR_INVALID,
        "Cannot agree on structured replies: STRUCTURED_REPLY takes no data",
      );
    }
    if (haggling.extended) {
      return haggling.fail(
        REPLY.ERR_EXT_HEADER_REQD,
        "Cannot go back to structured replies: extended headers were agreed on",
      );
    }
    haggling.structured = true;
    return haggling.ack();
  },
};
