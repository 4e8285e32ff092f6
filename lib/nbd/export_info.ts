/**
 * What the server tells of an export, and the table in which the handshake looks it up. All of it is
 * plain data, so that it can be posted to the thread that accepts. Implements the sections
 * "Transmission flags" and "Size constraints" of the NBD protocol document.
 *
 * @module
 */
import type { Device } from "../block/device.ts";
import { BlockError } from "../block/errors.ts";
import { BASE_ALLOCATION, DIRTY_BITMAP_PREFIX, TRANSMISSION } from "./constants.ts";
import { PAYLOAD_BYTES_MAX, STRING_BYTES_MAX } from "./limits.ts";
import { checkedString } from "./text.ts";

/** One export, as clients see it. Sizes are bytes. */
export interface ExportInfo {
  /** What clients ask for. UTF-8 of at most 4096 bytes, no NUL. */
  readonly name: string;
  /** For a human; "" for none. At most 4096 bytes of UTF-8, no NUL. */
  readonly description: string;
  /** Bytes, below 2^53. */
  readonly size: number;
  /** Whatever would change it is refused with EPERM. */
  readonly readOnly: boolean;
  /** Smallest unit: a power of two, 1 to 65536. */
  readonly minimum: number;
  /** Smallest efficient I/O: a power of two. */
  readonly preferred: number;
  /** Largest payload of one request. */
  readonly maximum: number;
  /** TRIM is offered. */
  readonly canTrim: boolean;
  /** WRITE_ZEROES is offered. */
  readonly canZero: boolean;
  /** CACHE is offered. */
  readonly canCache: boolean;
  /** A flush on one connection covers what was written on the others. */
  readonly multiConn: boolean;
  /** The medium is a spinning one. */
  readonly rotational: boolean;
  /** It exists for connections under TLS alone. */
  readonly tlsRequired: boolean;
  /** Names of the metadata contexts that can be selected: "base:allocation" and others. */
  readonly contexts: readonly string[];
}

/** Where the handshake finds exports. It reads the table anew for each option, so the table may change. */
export interface ExportTable {
  /** By name. */
  readonly exports: ReadonlyMap<string, ExportInfo>;
  /** The name of the export that the empty name stands for; null for none. */
  readonly defaultExport: string | null;
  /** The server is going down: options are answered ERR_SHUTDOWN. */
  readonly stopping: boolean;
  /**
   * Why no client more is let in just now, without a full stop; absent or null while there is room.
   * GO and STARTTLS are then answered ERR_POLICY: better than a connection that is cut off once in use.
   */
  readonly full?: string | null;
}

/** A metadata context that was selected. */
export interface MetaContext {
  /** Unique on its connection, 1 to META_CONTEXTS_MAX. */
  readonly id: number;
  /** For instance "base:allocation". */
  readonly name: string;
}

/** What the handshake settled: plain data, all that the transmission phase needs to know of it. */
export interface HandshakeState {
  /** The name in the table, never the empty one that stands for it. */
  readonly exportName: string;
  /** Structured replies were negotiated; true as well if `extended`. */
  readonly structured: boolean;
  /** Extended headers were negotiated. */
  readonly extended: boolean;
  /** Selected metadata contexts of this export. */
  readonly contexts: readonly MetaContext[];
  /** The transmission flags that were sent. */
  readonly flags: number;
  /** The client promised to keep to the block sizes. */
  readonly blockSizeAgreed: boolean;
  /** The handshake ended under TLS. */
  readonly secured: boolean;
}

/** What `exportInfoOf` cannot learn from a Device. */
export interface ExportSettings {
  /** The Device's name if left out. */
  readonly name?: string;
  /** For a human. */
  readonly description?: string;
  /** Show it read-only although the Device is not. */
  readonly readOnly?: boolean;
  /** Hide it from connections without TLS. */
  readonly tlsRequired?: boolean;
  /** The medium is a spinning one. */
  readonly rotational?: boolean;
}

/** What is to be known of a Device to export it. */
export type ExportedDevice = Pick<Device, "name" | "geometry" | "features">;

/** Describes the export of a Device. Throws EINVAL for a name or description that NBD cannot carry. */
export function exportInfoOf(
  device: ExportedDevice,
  settings: ExportSettings = {},
): ExportInfo {
  const { geometry, features } = device;
  const { name = device.name, description = "" } = settings;
  for (const text of [name, description]) {
    if (checkedString(text) === null) {
      throw new BlockError(
        "EINVAL",
        `Cannot export ${device.name}: a name or description has to be free of NUL and at most ` +
          `${STRING_BYTES_MAX} bytes long`,
      );
    }
  }
  const readOnly = features.readOnly || (settings.readOnly ?? false);
  return {
    name,
    description,
    size: geometry.size,
    readOnly,
    minimum: geometry.minimum,
    preferred: geometry.preferred,
    maximum: PAYLOAD_BYTES_MAX,
    canTrim: features.trim && !readOnly,
    // Where storage has no such verb the Device writes the zeroes.
    canZero: !readOnly,
    canCache: features.cache,
    // Every connection of a target ends in the same Device.
    multiConn: true,
    rotational: settings.rotational ?? false,
    tlsRequired: settings.tlsRequired ?? false,
    contexts: [
      ...(features.extents ? [BASE_ALLOCATION] : []),
      ...features.bitmaps.map((bitmap) => DIRTY_BITMAP_PREFIX + bitmap),
    ],
  };
}

/** What of a negotiation the transmission flags depend on. */
export interface FlagTerms {
  /** Structured replies. */
  readonly structured: boolean;
  /** Extended headers. */
  readonly extended: boolean;
  /** Selected metadata contexts. */
  readonly contexts: readonly MetaContext[];
}

/** The transmission flags of an export under what was negotiated so far. */
export function transmissionFlags(info: ExportInfo, terms: FlagTerms): number {
  const when = (condition: boolean, flag: number): number => condition ? flag : 0;
  return TRANSMISSION.HAS_FLAGS | TRANSMISSION.SEND_FLUSH | TRANSMISSION.SEND_FUA |
    when(info.readOnly, TRANSMISSION.READ_ONLY) |
    when(info.rotational, TRANSMISSION.ROTATIONAL) |
    when(info.canTrim, TRANSMISSION.SEND_TRIM) |
    when(info.canZero, TRANSMISSION.SEND_WRITE_ZEROES | TRANSMISSION.SEND_FAST_ZERO) |
    when(terms.structured || terms.extended, TRANSMISSION.SEND_DF) |
    when(info.multiConn, TRANSMISSION.CAN_MULTI_CONN) |
    when(info.canCache, TRANSMISSION.SEND_CACHE) |
    when(terms.extended && terms.contexts.length > 0, TRANSMISSION.BLOCK_STATUS_PAYLOAD);
}
