/**
 * Frames of the dirty-region log interface: a netlink header, a connector message, a request or reply
 * of dm-log-userspace and its payload. Pure. A reply is the frame of its request with an error and
 * another payload: the kernel finds the request by the sequence number inside.
 *
 * @module
 */
import {
  CONNECTOR_HEADER_BYTES,
  CONNECTOR_INDEX,
  CONNECTOR_VALUE,
  FRAME_HEADER_BYTES,
  FRAME_OFFSETS as at,
  NETLINK_DONE,
  NETLINK_HEADER_BYTES,
  REQUEST_HEADER_BYTES,
  REQUEST_TYPE_MASK,
  REQUEST_TYPES,
  REQUEST_VERSION,
  type RequestName,
  UUID_FIELD_BYTES,
} from "./constants.ts";
import { PAYLOAD_BYTES_MAX, UUID_BYTES_MAX } from "./limits.ts";

/** A request of the kernel, or a reply to one. */
export interface LogMessage {
  /** Number of the log in its kernel: with the uuid it names the log. */
  readonly luid: bigint;
  /** The name that the table gives, up to 128 bytes of UTF-8 without NUL. */
  readonly uuid: string;
  /** Version of the interface. */
  readonly version: number;
  /** 0, or a negative Linux errno in a reply. */
  readonly error: number;
  /** What a reply is matched by: a u32. */
  readonly seq: number;
  /** One of REQUEST_TYPES, or a number that this code does not know. */
  readonly type: number;
  /** At most 332 bytes. */
  readonly data: Uint8Array;
}

/** An answer of the connector itself, without a request inside: the kernel takes it as minus the error. */
export interface BareAck {
  /** Sequence number of the connector message. */
  readonly seq: number;
  /** A Linux errno. */
  readonly ack: number;
}

/** What a datagram was: a message, a bare acknowledgement, or nothing that belongs here. */
export type Decoded =
  | { readonly kind: "message"; readonly message: LogMessage }
  | { readonly kind: "ack"; readonly ack: BareAck }
  | { readonly kind: "foreign"; readonly reason: string };

const NAMES = new Map<number, RequestName>();
for (const [name, type] of Object.entries(REQUEST_TYPES)) {
  if (isRequestName(name)) NAMES.set(type, name);
}

function isRequestName(name: string): name is RequestName {
  return Object.hasOwn(REQUEST_TYPES, name);
}

/** The name of a request type, or `type 18` if it has none. */
export function requestName(type: number): string {
  return NAMES.get(type) ?? `type ${type}`;
}

const ENCODER = new TextEncoder();
/** A uuid is bytes to the kernel: what is no UTF-8 is kept apart, character by byte. */
const DECODER = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const LATIN = new TextDecoder("latin1");

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function foreign(reason: string): Decoded {
  return { kind: "foreign", reason };
}

/** The text of a field that NUL ends, or null if none does. */
function fieldText(field: Uint8Array): string | null {
  const end = field.indexOf(0);
  if (end < 0) return null;
  const bytes = field.subarray(0, end);
  try {
    return DECODER.decode(bytes);
  } catch {
    return LATIN.decode(bytes);
  }
}

/**
 * Takes a datagram apart. Never throws: whatever is no frame of this interface is "foreign", with the
 * reason. The data of the message lies inside `bytes`.
 *
 * @example
 * ```ts
 * import { decodeFrame, encodeFrame } from "./message.ts";
 * const data = new Uint8Array(8);
 * const message = { luid: 1n, uuid: "A", version: 3, error: 0, seq: 9, type: 7, data };
 * const decoded = decodeFrame(encodeFrame(message));
 * if (decoded.kind !== "message" || decoded.message.seq !== 9) throw new Error("not read back");
 * ```
 */
export function decodeFrame(bytes: Uint8Array): Decoded {
  if (bytes.length < NETLINK_HEADER_BYTES + CONNECTOR_HEADER_BYTES) {
    return foreign(`it has only ${bytes.length} bytes`);
  }
  const view = viewOf(bytes);
  const total = view.getUint32(at.netlinkLength, true);
  // Up to three bytes of padding may follow, and are not counted.
  if (total > bytes.length) return foreign(`it says ${total} bytes and has ${bytes.length}`);
  if (view.getUint16(at.netlinkType, true) !== NETLINK_DONE) {
    return foreign(`it is of netlink type ${view.getUint16(at.netlinkType, true)}`);
  }
  const index = view.getUint32(at.index, true), value = view.getUint32(at.value, true);
  if (index !== CONNECTOR_INDEX || value !== CONNECTOR_VALUE) {
    return foreign(`it is for connector ${index}:${value}`);
  }
  const length = view.getUint16(at.connectorLength, true);
  if (NETLINK_HEADER_BYTES + CONNECTOR_HEADER_BYTES + length > total) {
    return foreign(`its connector message says ${length} bytes and does not fit`);
  }
  if (length === 0) {
    const seq = view.getUint32(at.connectorSeq, true);
    return { kind: "ack", ack: { seq, ack: view.getUint32(at.ack, true) } };
  }
  return decodeRequest(bytes, view, length);
}

function decodeRequest(bytes: Uint8Array, view: DataView, length: number): Decoded {
  if (length < REQUEST_HEADER_BYTES) return foreign(`its request has only ${length} bytes`);
  const dataSize = view.getUint32(at.dataSize, true);
  if (REQUEST_HEADER_BYTES + dataSize > length) {
    return foreign(`its payload says ${dataSize} bytes and does not fit`);
  }
  const uuid = fieldText(bytes.subarray(at.uuid, at.uuid + UUID_FIELD_BYTES));
  if (uuid === null) return foreign("its uuid has no end");
  const message: LogMessage = {
    luid: view.getBigUint64(at.luid, true),
    uuid,
    version: view.getUint32(at.version, true),
    error: view.getInt32(at.error, true),
    seq: view.getUint32(at.seq, true),
    type: view.getUint32(at.type, true) & REQUEST_TYPE_MASK,
    data: bytes.subarray(FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + dataSize),
  };
  return { kind: "message", message };
}

/** The frame of a message, without padding. Throws RangeError if the uuid or the data is too long. */
export function encodeFrame(message: LogMessage): Uint8Array<ArrayBuffer> {
  const { uuid, data } = message;
  const name = ENCODER.encode(uuid);
  if (name.length > UUID_BYTES_MAX || uuid.includes("\0")) {
    throw new RangeError(`Cannot encode a frame: its uuid has ${name.length} bytes or a NUL`);
  }
  if (data.length > PAYLOAD_BYTES_MAX) {
    throw new RangeError(
      `Cannot encode a frame: its payload has ${data.length} bytes, at most ${PAYLOAD_BYTES_MAX}`,
    );
  }
  const bytes = new Uint8Array(FRAME_HEADER_BYTES + data.length);
  const view = viewOf(bytes);
  writeHeaders(view, message.seq, REQUEST_HEADER_BYTES + data.length);
  view.setBigUint64(at.luid, message.luid, true);
  bytes.set(name, at.uuid);
  view.setUint32(at.version, message.version, true);
  view.setInt32(at.error, message.error, true);
  view.setUint32(at.seq, message.seq, true);
  view.setUint32(at.type, message.type, true);
  view.setUint32(at.dataSize, data.length, true);
  bytes.set(data, FRAME_HEADER_BYTES);
  return bytes;
}

function writeHeaders(view: DataView, seq: number, length: number): void {
  view.setUint32(at.netlinkLength, NETLINK_HEADER_BYTES + CONNECTOR_HEADER_BYTES + length, true);
  view.setUint16(at.netlinkType, NETLINK_DONE, true);
  view.setUint32(at.netlinkSeq, seq, true);
  view.setUint32(at.index, CONNECTOR_INDEX, true);
  view.setUint32(at.value, CONNECTOR_VALUE, true);
  view.setUint32(at.connectorSeq, seq, true);
  view.setUint16(at.connectorLength, length, true);
}

/** The frame of a bare acknowledgement. */
export function encodeAck({ seq, ack }: BareAck): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(NETLINK_HEADER_BYTES + CONNECTOR_HEADER_BYTES);
  const view = viewOf(bytes);
  writeHeaders(view, seq, 0);
  view.setUint32(at.ack, ack, true);
  return bytes;
}

/**
 * The reply to the request in `frame` (which decodeFrame took): a copy of it, so that every field
 * comes back as it was, with the error and the payload of the reply.
 */
export function encodeReply(
  frame: Uint8Array,
  error: number,
  data: Uint8Array,
): Uint8Array<ArrayBuffer> {
  if (data.length > PAYLOAD_BYTES_MAX) {
    throw new RangeError(
      `Cannot encode a reply: its payload has ${data.length} bytes, at most ${PAYLOAD_BYTES_MAX}`,
    );
  }
  const bytes = new Uint8Array(FRAME_HEADER_BYTES + data.length);
  bytes.set(frame.subarray(0, FRAME_HEADER_BYTES));
  const view = viewOf(bytes);
  view.setUint32(at.netlinkLength, bytes.length, true);
  view.setUint16(at.connectorLength, REQUEST_HEADER_BYTES + data.length, true);
  view.setInt32(at.error, error, true);
  view.setUint32(at.dataSize, data.length, true);
  bytes.set(data, FRAME_HEADER_BYTES);
  return bytes;
}

/** A message in words: `seq 7 MARK_REGION A/0x2a 16 bytes`, with the error of a reply behind. */
export function describeMessage(message: LogMessage): string {
  const { seq, type, uuid, luid, data, error } = message;
  const rest = error === 0 ? "" : ` error ${error}`;
  return `seq ${seq} ${requestName(type)} ${uuid}/0x${
    luid.toString(16)
  } ${data.length} bytes${rest}`;
}

/** A message with what is rarely told left out: version 3, no error, no data. */
export function makeMessage(
  parts: Pick<LogMessage, "luid" | "uuid" | "seq" | "type"> & Partial<LogMessage>,
): LogMessage {
  return { version: REQUEST_VERSION, error: 0, data: new Uint8Array(0), ...parts };
}
