/**
 * LIST_META_CONTEXT and SET_META_CONTEXT: which metadata contexts an export has, and which of them
 * BLOCK_STATUS shall tell. The contexts come from the export table. A query is a context's name;
 * when listing, one that ends in a colon ("base:", "qemu:dirty-bitmap:") stands for all that begin
 * with it. Other queries select nothing, whatever their namespace.
 *
 * @module
 */
import { ByteReader } from "../byte_io.ts";
import { OPTION, REPLY } from "../constants.ts";
import type { MetaContext } from "../export_info.ts";
import type { Haggling, OptionHandler, OptionOutcome } from "../haggling.ts";
import { META_CONTEXTS_MAX, META_QUERIES_MAX } from "../limits.ts";
import { decodeString, messageBytes, quoted } from "../text.ts";

interface ContextRequest {
  readonly exportName: string;
  readonly queries: readonly string[];
}

type Problem = { readonly error: number; readonly problem: string };

function invalid(problem: string): Problem {
  return { error: REPLY.ERR_INVALID, problem };
}

function readString(reader: ByteReader, total: number): string | null {
  const bytes = reader.raw(reader.u32() ?? total + 1);
  return bytes === null ? null : decodeString(bytes);
}

function parse(data: Uint8Array): ContextRequest | Problem {
  const reader = new ByteReader(data);
  const exportName = readString(reader, data.length);
  if (exportName === null) return invalid("the export name is not a string of up to 4096 bytes");
  const count = reader.u32();
  if (count === null) return invalid("the data end too early");
  if (count > META_QUERIES_MAX) {
    return { error: REPLY.ERR_TOO_BIG, problem: `at most ${META_QUERIES_MAX} queries go at once` };
  }
  const queries: string[] = [];
  for (let index = 0; index < count; index++) {
    const query = readString(reader, data.length);
    if (query === null) return invalid(`query ${index + 1} is not a string of up to 4096 bytes`);
    queries.push(query);
  }
  if (reader.left > 0) return invalid(`${reader.left} bytes follow the last query`);
  return { exportName, queries };
}

function tell(contexts: readonly MetaContext[], haggling: Haggling): OptionOutcome {
  for (const { id, name } of contexts) {
    const bytes = messageBytes(name);
    haggling.reply(REPLY.META_CONTEXT, 4 + bytes.length).u32(id).raw(bytes);
  }
  return haggling.ack();
}

function listed(available: readonly string[], queries: readonly string[]): MetaContext[] {
  const matches = (name: string): boolean =>
    queries.length === 0 ||
    queries.some((query) => query === name || (query.endsWith(":") && name.startsWith(query)));
  // "The metadata context ID in these replies is reserved and SHOULD be set to zero."
  return available.filter(matches).map((name) => ({ id: 0, name }));
}

function selected(available: readonly string[], queries: readonly string[]): MetaContext[] {
  return available.filter((name) => queries.includes(name)).map((name, index) => ({
    id: index + 1,
    name,
  }));
}

function handle(data: Uint8Array, haggling: Haggling): OptionOutcome {
  const setting = haggling.option === OPTION.SET_META_CONTEXT;
  const verb = setting ? "select" : "list";
  // "Issuing this command replaces all previously-set metadata contexts (including when this command fails)."
  if (setting) haggling.selection = null;
  if (!haggling.structured && !haggling.extended) {
    return haggling.fail(
      REPLY.ERR_INVALID,
      `Cannot ${verb} metadata contexts: structured replies have to be agreed on first`,
    );
  }
  const request = parse(data);
  if ("problem" in request) {
    return haggling.fail(
      request.error,
      `Cannot ${verb} metadata contexts: ${request.problem}`,
    );
  }
  const found = haggling.find(request.exportName);
  if (found.kind !== "export") {
    // ERR_TLS_REQD is for INFO and GO alone.
    return haggling.fail(
      REPLY.ERR_UNKNOWN,
      `Cannot ${verb} metadata contexts: the export ${quoted(request.exportName)} does not exist`,
    );
  }
  const { name, contexts: available } = found.info;
  if (!setting) return tell(listed(available, request.queries), haggling);
  const contexts = selected(available, request.queries);
  if (contexts.length > META_CONTEXTS_MAX) {
    return haggling.fail(
      REPLY.ERR_TOO_BIG,
      `Cannot select ${contexts.length} metadata contexts: at most ${META_CONTEXTS_MAX} go at once`,
    );
  }
  haggling.selection = { exportName: name, contexts };
  return tell(contexts, haggling);
}

/** Handles NBD_OPT_LIST_META_CONTEXT. */
export const listMetaContext: OptionHandler = { option: OPTION.LIST_META_CONTEXT, handle };

/** Handles NBD_OPT_SET_META_CONTEXT. */
export const setMetaContext: OptionHandler = { option: OPTION.SET_META_CONTEXT, handle };
