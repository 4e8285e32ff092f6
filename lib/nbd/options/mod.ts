/**
 * The table of the options that the server knows. What is not in it is answered ERR_UNSUP.
 *
 * @module
 */
import type { OptionHandler } from "../haggling.ts";
import { abort } from "./abort.ts";
import { exportName } from "./export_name.ts";
import { extendedHeaders } from "./extended_headers.ts";
import { go, info } from "./info_go.ts";
import { list } from "./list.ts";
import { listMetaContext, setMetaContext } from "./meta_context.ts";
import { starttls } from "./starttls.ts";
import { structuredReply } from "./structured_reply.ts";

const HANDLERS: readonly OptionHandler[] = [
  exportName,
  abort,
  list,
  starttls,
  info,
  go,
  structuredReply,
  listMetaContext,
  setMetaContext,
  extendedHeaders,
];

/** The handlers by the number of their option. */
export const OPTION_HANDLERS: ReadonlyMap<number, OptionHandler> = new Map(
  HANDLERS.map((handler) => [handler.option, handler]),
);
