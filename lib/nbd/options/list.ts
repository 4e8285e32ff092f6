/**
 * LIST: the names of the exports. Those that need TLS are left out before TLS.
 *
 * @module
 */
import { OPTION, REPLY } from "../constants.ts";
import type { OptionHandler, OptionOutcome } from "../haggling.ts";
import { messageBytes } from "../text.ts";

/** Handles NBD_OPT_LIST. */
export const list: OptionHandler = {
  option: OPTION.LIST,
  handle(data, haggling): OptionOutcome {
    if (data.length > 0) {
      return haggling.fail(REPLY.ERR_INVALID, "Cannot list exports: LIST takes no data");
    }
    for (const info of haggling.table.exports.values()) {
      if (!haggling.mayShow(info)) continue;
      const name = messageBytes(info.name);
      const description = messageBytes(info.description);
      haggling.reply(REPLY.SERVER, 4 + name.length + description.length)
        .u32(name.length).raw(name).raw(description);
    }
    return haggling.ack();
  },
};
