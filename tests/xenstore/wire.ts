/**
 * A peer of a store for tests: sends requests into a session or a xenbus file and reads what comes
 * back, everything on the spot.
 *
 * @module
 */
import {
  bytesOf,
  decodeMessage,
  encodeMessage,
  OPERATION,
  type OperationName,
  operationName,
  payloadLength,
  type Store,
  textOf,
  XenstoreSession,
} from "../../lib/xenstore/mod.ts";

/** The messages in a run of bytes, as "NAME payload" with NUL as "|". */
export function describeMessages(bytes: Uint8Array): string[] {
  const found: string[] = [];
  for (let at = 0; at < bytes.length;) {
    const end = at + 16 + payloadLength(bytes, at);
    const message = decodeMessage(bytes, at, end);
    found.push(`${operationName(message.type)} ${textOf(message.payload).replaceAll("\0", "|")}`);
    at = end;
  }
  return found;
}

/** The bytes of a request; "|" in the payload is NUL. */
export function request(
  name: OperationName | number,
  payload: string,
  transactionId = 0,
  requestId = 7,
): Uint8Array<ArrayBuffer> {
  return encodeMessage({
    type: typeof name === "number" ? name : OPERATION[name],
    requestId,
    transactionId,
    payload: bytesOf(payload.replaceAll("|", "\0")),
  });
}

/** Everything that a session has to send. */
export function drain(session: XenstoreSession): Uint8Array {
  const parts: number[] = [];
  for (let output = session.takeOutput(); output !== null; output = session.takeOutput()) {
    parts.push(...output.bytes);
    output.release();
  }
  return new Uint8Array(parts);
}

/** A connection to a store. */
export class Peer {
  readonly session: XenstoreSession;

  constructor(store: Store, domid = 0) {
    this.session = new XenstoreSession(store, { domid });
  }

  /** Sends a request and gives what comes back, events included. */
  ask(name: OperationName | number, payload: string, transactionId = 0): string[] {
    this.session.receive(request(name, payload, transactionId));
    return this.take();
  }

  /** What has come meanwhile. */
  take(): string[] {
    return describeMessages(drain(this.session));
  }

  /** Starts a transaction and gives its number. */
  start(): number {
    return Number(this.ask("TRANSACTION_START", "|")[0]?.replace(/\D/g, ""));
  }
}
