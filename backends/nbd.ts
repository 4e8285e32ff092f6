/**
 * `nbd`: a disk that another NBD server exports. Verbs that the server does not offer are absent.
 * Relies on lib/nbd/client; geometry and capabilities follow the sections "Size constraints" and
 * "Transmission flags" of the NBD protocol document.
 *
 * @module
 */
import type { OpenContext } from "../lib/block/context.ts";
import { BlockError } from "../lib/block/errors.ts";
import { PREFERRED_BLOCK_BYTES_MAX, REQUEST_BYTES_MAX } from "../lib/block/limits.ts";
import {
  countOption,
  omittable,
  optionSchema,
  pathOption,
  textOption,
} from "../lib/block/options.ts";
import { BufferPool } from "../lib/block/pool.ts";
import type {
  Backend,
  BackendType,
  Extent,
  Geometry,
  Maybe,
  Opened,
  ZeroOptions,
} from "../lib/block/types.ts";
import { UsageError } from "../lib/block/usage_error.ts";
import {
  CONNECTIONS_MAX,
  EFFECT_BYTES_MAX,
  PAYLOAD_DEFAULT_BYTES,
  PREFERRED_DEFAULT_BYTES,
} from "../lib/nbd/client/limits.ts";
import {
  connectNbd,
  type Dial,
  dialSocket,
  type NbdConnection,
  type Negotiated,
} from "../lib/nbd/client/mod.ts";
import { COMMAND_FLAG, TRANSMISSION } from "../lib/nbd/constants.ts";
import { formatNbdUri, NBD_SCHEMES, type NbdUri, parseNbdUri } from "../lib/nbd/uri.ts";

/** Options of the nbd backend. */
export interface NbdOptions {
  /** Where the export is. */
  readonly uri: string;
  /** Connections to open if the server shares its cache among them. */
  readonly connections: number;
  /** Folder with certificates for TLS. */
  readonly "tls-certificates"?: string | undefined;
  /** Seconds; 0 waits for ever. */
  readonly timeout: number;
}

function uriOf(options: NbdOptions): NbdUri {
  const uri = parseNbdUri(options.uri);
  const folder = options["tls-certificates"];
  if (folder === undefined) return uri;
  if (!uri.tls) {
    throw new UsageError(
      "Cannot open nbd: tls-certificates has no meaning here, use a URI of the scheme nbds or nbds+unix",
    );
  }
  return { ...uri, tlsCertificates: folder };
}

/** The connections of one target; all show the same export. */
class Connections {
  readonly all: readonly NbdConnection[];
  /** What was negotiated, on the first of them. */
  readonly server: Negotiated;

  constructor(first: NbdConnection, others: readonly NbdConnection[] = []) {
    this.all = [first, ...others];
    this.server = first.negotiated;
  }

  /** The connection with the least to do. Throws ENOTCONN if all are lost. */
  pick(): NbdConnection {
    let best: NbdConnection | null = null;
    for (const each of this.all) {
      if (each.refusal === null && (best === null || each.inFlight < best.inFlight)) best = each;
    }
    if (best !== null) return best;
    throw this.all[0]?.refusal ?? new BlockError("ENOTCONN");
  }

  abort(reason: unknown): void {
    for (const each of this.all) each.abort(reason);
  }

  async dispose(): Promise<void> {
    await Promise.all(this.all.map((each) => each[Symbol.asyncDispose]()));
  }
}

function has(server: Negotiated, flag: number): boolean {
  return (server.facts.flags & flag) !== 0;
}

async function connectAll(
  uri: NbdUri,
  options: NbdOptions,
  context: OpenContext,
  dial: Dial,
): Promise<Connections> {
  const { clock, signal, log } = context;
  const pool = new BufferPool();
  const settings = { clock, signal, pool, dial, timeoutMs: options.timeout * 1000 };
  const first = await connectNbd(uri, settings);
  if (options.connections === 1) return new Connections(first);
  if (!has(first.negotiated, TRANSMISSION.CAN_MULTI_CONN)) {
    log.info(`${formatNbdUri(uri)}: one connection, since the server does not allow several`);
    return new Connections(first);
  }
  const attempts = await Promise.allSettled(
    Array.from({ length: options.connections - 1 }, () => connectNbd(uri, settings)),
  );
  const others: NbdConnection[] = [];
  const problems: unknown[] = [];
  for (const attempt of attempts) {
    if (attempt.status === "fulfilled") others.push(attempt.value);
    else problems.push(attempt.reason);
  }
  const { size, facts: { flags } } = first.negotiated;
  const alike = others.every(({ negotiated }) =>
    negotiated.size === size && negotiated.facts.flags === flags
  );
  if (!alike) {
    problems.push(
      new BlockError("EIO", "Cannot open nbd: the server shows another export on each connection"),
    );
  }
  const connections = new Connections(first, others);
  if (problems.length === 0) return connections;
  await connections.dispose();
  throw problems[0];
}

function geometryOf(server: Negotiated, context: OpenContext, name: string): Geometry {
  const { blockSizes } = server.facts;
  const minimum = blockSizes?.minimum ?? 1;
  const preferred = Math.min(
    blockSizes?.preferred ?? PREFERRED_DEFAULT_BYTES,
    PREFERRED_BLOCK_BYTES_MAX,
  );
  const most = Math.min(blockSizes?.maximum ?? PAYLOAD_DEFAULT_BYTES, REQUEST_BYTES_MAX);
  const tail = server.size % minimum;
  if (tail !== 0) {
    context.log.warn(
      `${name}: its last ${tail} bytes are left out, since the server wants blocks of ${minimum}`,
    );
  }
  return {
    size: server.size - tail,
    minimum,
    preferred,
    maximum: most - most % preferred,
    readOnly: context.readOnly || has(server, TRANSMISSION.READ_ONLY),
  };
}

/** Runs `step` on pieces of at most `pieceBytes`, one after another. */
async function inPieces(
  offset: number,
  length: number,
  pieceBytes: number,
  step: (offset: number, length: number) => Promise<void>,
): Promise<void> {
  for (let at = 0; at < length; at += pieceBytes) {
    await step(offset + at, Math.min(pieceBytes, length - at));
  }
}

/** Makes what a server reports fit the contract: inside the device, whole blocks. */
function fitExtents(extents: readonly Extent[], room: number, minimum: number): Extent[] {
  const fitting: Extent[] = [];
  let at = 0;
  for (const extent of extents) {
    const end = Math.min(at + extent.length, room);
    if (end === at) break;
    if (end % minimum !== 0) {
      // Only a server with a fault cuts a block in two: the whole of it counts as data.
      if (at === 0) fitting.push({ length: minimum, allocated: true, zero: false });
      break;
    }
    fitting.push({ ...extent, length: end - at });
    at = end;
  }
  return fitting;
}

/** Verbs that a server may lack, as far as it offers them. */
function optionalVerbs(
  server: Negotiated,
  connections: Connections,
  geometry: Geometry,
): Partial<Backend> {
  const piece = server.extended ? Infinity : EFFECT_BYTES_MAX;
  const fuaFlag = (fua: boolean): number => fua ? COMMAND_FLAG.FUA : 0;

  /** A server may find a long range too much for one request: then in pieces of a payload's length. */
  async function patiently(
    offset: number,
    length: number,
    step: (offset: number, length: number) => Promise<void>,
  ): Promise<void> {
    await inPieces(offset, length, piece, async (at, count) => {
      try {
        await step(at, count);
      } catch (error) {
        const tooLong = error instanceof BlockError && error.errno === "EOVERFLOW";
        if (!tooLong || count <= geometry.maximum) throw error;
        await inPieces(at, count, geometry.maximum, step);
      }
    });
  }

  function zero(offset: number, length: number, options: ZeroOptions): Promise<void> {
    const { mayTrim, fastOnly, fua } = options;
    if (fastOnly && !has(server, TRANSMISSION.SEND_FAST_ZERO)) {
      throw new BlockError("EOPNOTSUPP", "Cannot zero fast: the server does not tell what is fast");
    }
    const flags = fuaFlag(fua) | (mayTrim ? 0 : COMMAND_FLAG.NO_HOLE) |
      (fastOnly ? COMMAND_FLAG.FAST_ZERO : 0);
    return patiently(offset, length, (at, count) => connections.pick().zero(at, count, flags));
  }

  async function extents(offset: number, length: number): Promise<Extent[]> {
    const asked = Math.min(length, piece);
    const found = await connections.pick().extents(offset, asked);
    return fitExtents(found, geometry.size - offset, geometry.minimum);
  }

  return {
    ...(has(server, TRANSMISSION.SEND_TRIM) && {
      trim: (offset, length, { fua }) =>
        patiently(
          offset,
          length,
          (at, count) => connections.pick().trim(at, count, fuaFlag(fua)),
        ),
    }),
    ...(has(server, TRANSMISSION.SEND_WRITE_ZEROES) && { zero }),
    ...(has(server, TRANSMISSION.SEND_CACHE) && {
      cache: (offset, length) =>
        // qemu-nbd takes a cache request to be as long as a read at most.
        inPieces(
          offset,
          length,
          geometry.maximum,
          (at, count) => connections.pick().cache(at, count),
        ),
    }),
    ...(server.statusContext !== null && { extents }),
  };
}

/** Flush, or a warning the first time it is missed. */
function flushOf(
  server: Negotiated,
  connections: Connections,
  context: OpenContext,
  name: string,
): () => Maybe<void> {
  if (has(server, TRANSMISSION.SEND_FLUSH)) return () => connections.pick().flush();
  let warned = false;
  return () => {
    if (warned) return;
    warned = true;
    context.log.warn(
      `${name}: the server offers no flush, so nothing says when what was written is durable`,
    );
  };
}

/**
 * Opens an export as a backend. `dial` makes the connections; node:net and node:tls if left out. What
 * it rejects with is what `connectNbd` says.
 */
export async function openNbd(
  options: NbdOptions,
  context: OpenContext,
  dial: Dial = dialSocket,
): Promise<Opened> {
  const uri = uriOf(options);
  const name = formatNbdUri(uri);
  const connections = await connectAll(uri, options, context, dial);
  const { server } = connections;
  const geometry = geometryOf(server, context, name);
  const abort = (): void => connections.abort(context.signal.reason);
  context.signal.addEventListener("abort", abort);
  /** Connections that were sound when the backend was closed: their end is no news. */
  const closing = new Set<NbdConnection>();
  for (const each of connections.all) {
    each.over.then(() => {
      if (!closing.has(each)) {
        context.log.error(`${name}: ${each.refusal?.message ?? "disconnected"}`);
      }
    });
  }
  const backend: Backend = {
    geometry,
    capabilities: { synchronous: false, fua: has(server, TRANSMISSION.SEND_FUA) },
    read: (into, offset) => connections.pick().read(into, offset),
    write: (from, offset, { fua }) =>
      connections.pick().write(from, offset, fua ? COMMAND_FLAG.FUA : 0),
    flush: flushOf(server, connections, context, name),
    ...optionalVerbs(server, connections, geometry),
    async [Symbol.asyncDispose](): Promise<void> {
      for (const each of connections.all) if (each.refusal === null) closing.add(each);
      context.signal.removeEventListener("abort", abort);
      await connections.dispose();
    },
  };
  const describe = (): Record<string, string | number | boolean> => ({
    server: name,
    export: server.facts.canonicalName ?? server.exportName,
    ...(server.facts.description === null ? {} : { description: server.facts.description }),
    encrypted: server.encrypted,
    headers: server.extended ? "extended" : server.structured ? "structured" : "simple",
    connections: connections.all.length,
  });
  return { backend, management: { describe } };
}

/** The nbd backend. */
export const nbd: BackendType<NbdOptions> = {
  name: "nbd",
  summary: "disk that another NBD server exports",
  waits: true,
  argument: "uri",
  schemes: NBD_SCHEMES,
  options: optionSchema({
    uri: textOption({ summary: "NBD URI of the export" }),
    connections: countOption({
      summary: "connections, if the server allows several",
      default: 1,
      min: 1,
      max: CONNECTIONS_MAX,
    }),
    "tls-certificates": omittable(
      pathOption({ summary: "folder with ca-cert.pem, client-cert.pem and client-key.pem" }),
    ),
    timeout: countOption({
      summary: "seconds without a sign of the server after which requests fail; 0 waits for ever",
      default: 0,
      max: 86_400,
    }),
  }),
  open: (options, context) => openNbd(options, context),
};
