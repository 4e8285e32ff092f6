/**
 * STARTTLS: the rest of the connection goes through TLS. What was negotiated before is dropped with
 * the handshake that this one ends.
 *
 * @module
 */
import { OPTION, REPLY } from "../constants.ts";
import type { OptionHandler, OptionOutcome } from "../haggling.ts";

/** Handles NBD_OPT_STARTTLS. */
export const starttls: OptionHandler = {
  option: OPTION.STARTTLS,
  handle(data, haggling): OptionOutcome {
    if (data.length > 0) {
      return haggling.fail(REPLY.ERR_INVALID, "Cannot start TLS: STARTTLS takes no data");
    }
    if (haggling.secured) {
      return haggling.fail(REPLY.ERR_INVALID, "Cannot start TLS: it is in use");
    }
    if (haggling.tls === "off") {
      return haggling.fail(REPLY.ERR_POLICY, "Cannot start TLS: it is not configured here");
    }
    haggling.ack();
    return { kind: "starttls" };
  },
};
