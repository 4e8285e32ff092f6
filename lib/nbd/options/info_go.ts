/**
 * INFO and GO: facts of an export; GO enters it as well.
 *
 * The block sizes are told to whoever asks, and unasked where the minimum is not the default of 1.
 * A client that did not ask is never turned away with ERR_BLOCK_SIZE_REQD: most keep to 512 bytes
 * anyway, and a request that is not aligned is refused with EINVAL.
 *
 * @module
 */
import { ByteReader } from "../byte_io.ts";
import { INFO, OPTION, REPLY } from "../constants.ts";
import type { ExportInfo } from "../export_info.ts";
import type { Haggling, OptionHandler, OptionOutcome } from "../haggling.ts";
import { decodeString, messageBytes, quoted } from "../text.ts";

interface InfoRequest {
  readonly name: string;
  /** The information types asked for. */
  readonly wanted: ReadonlySet<number>;
}

function parse(data: Uint8Array): InfoRequest | { readonly problem: string } {
  const reader = new ByteReader(data);
  const nameBytes = reader.raw(reader.u32() ?? data.length + 1);
  const count = reader.u16();
  if (nameBytes === null || count === null) return { problem: "the data end too early" };
  if (reader.left !== count * 2) {
    return { problem: `${reader.left} bytes for ${count} information types` };
  }
  const name = decodeString(nameBytes);
  if (name === null) return { problem: "the name is not a string of up to 4096 bytes" };
  const wanted = new Set<number>();
  for (let type = reader.u16(); type !== null; type = reader.u16()) wanted.add(type);
  return { name, wanted };
}

function describe(info: ExportInfo, wanted: ReadonlySet<number>, haggling: Haggling): void {
  haggling.reply(REPLY.INFO, 12)
    .u16(INFO.EXPORT).u64(BigInt(info.size)).u16(haggling.flagsOf(info));
  if (wanted.has(INFO.NAME)) {
    const bytes = messageBytes(info.name);
    haggling.reply(REPLY.INFO, 2 + bytes.length).u16(INFO.NAME).raw(bytes);
  }
  if (wanted.has(INFO.DESCRIPTION) && info.description !== "") {
    const bytes = messageBytes(info.description);
    haggling.reply(REPLY.INFO, 2 + bytes.length).u16(INFO.DESCRIPTION).raw(bytes);
  }
  if (wanted.has(INFO.BLOCK_SIZE) || info.minimum > 1) {
    haggling.reply(REPLY.INFO, 14)
      .u16(INFO.BLOCK_SIZE).u32(info.minimum).u32(info.preferred).u32(info.maximum);
  }
}

function handle(data: Uint8Array, haggling: Haggling): OptionOutcome {
  const verb = haggling.option === OPTION.GO ? "open" : "describe";
  const request = parse(data);
  if ("problem" in request) {
    return haggling.fail(REPLY.ERR_INVALID, `Cannot ${verb} the export: ${request.problem}`);
  }
  const found = haggling.find(request.name);
  const subject = request.name === "" ? "the default export" : `export ${quoted(request.name)}`;
  if (found.kind === "needs-tls") {
    return haggling.fail(
      REPLY.ERR_TLS_REQD,
      `Cannot ${verb} ${subject} without TLS: it does not exist or needs TLS`,
    );
  }
  if (found.kind === "unknown") {
    return haggling.fail(
      REPLY.ERR_UNKNOWN,
      `Cannot ${verb} ${subject}: ${
        request.name === "" ? "there is none, ask for an export by name" : "it does not exist"
      }`,
    );
  }
  describe(found.info, request.wanted, haggling);
  haggling.ack();
  if (haggling.option !== OPTION.GO) return null;
  const blockSizeAgreed = request.wanted.has(INFO.BLOCK_SIZE);
  return { kind: "enter", state: haggling.stateOf(found.info, blockSizeAgreed) };
}

/** Handles NBD_OPT_INFO. */
export const info: OptionHandler = { option: OPTION.INFO, handle };

/** Handles NBD_OPT_GO. */
export const go: OptionHandler = { option: OPTION.GO, handle };
