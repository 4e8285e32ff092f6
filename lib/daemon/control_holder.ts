/**
 * A control connection as a bare descriptor: an open file that lasts as long as any process holds it,
 * whatever that process is. Its onexit actions are done when the last one lets go.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import { POLL_IN, POLL_OUT, PollSet } from "../sys/poll.ts";
import { closeDescriptor, connectUnix, receive, send, WOULD_BLOCK } from "../sys/socket.ts";
import { OPERATION } from "../xenstore/constants.ts";
import { HEADER_BYTES, PAYLOAD_BYTES_MAX } from "../xenstore/limits.ts";
import {
  bytesOf,
  decodeMessage,
  encodeMessage,
  payloadLength,
  textOf,
} from "../xenstore/message.ts";
import { answerOf, GONE, numberOf, question, unreachable } from "./control_verbs.ts";

/** An open file that is held by a descriptor. */
export interface HeldFile {
  /** The descriptor: a blocking socket, close-on-exec. */
  readonly fd: number;
  /** The number of the open file. */
  readonly minor: number;
}

/**
 * Connects to a control socket and asks which open file the connection is; blocks this thread until
 * that is known. Throws BlockError if there is no daemon, or it does not let this user.
 */
export function holdOpenFile(path: string): HeldFile {
  let fd: number;
  try {
    fd = connectUnix(path);
  } catch (error) {
    throw unreachable(path, error);
  }
  try {
    return { fd, minor: askSelf(fd) };
  } catch (error) {
    closeDescriptor(fd);
    if (error instanceof BlockError) throw error;
    throw new BlockError("ECONNRESET", GONE, { cause: error });
  }
}

function askSelf(fd: number): number {
  const payload = bytesOf(question("self", {}));
  sendAll(fd, encodeMessage({ type: OPERATION.CONTROL, requestId: 1, transactionId: 0, payload }));
  const header = receiveAll(fd, HEADER_BYTES);
  const length = Math.min(payloadLength(header, 0), PAYLOAD_BYTES_MAX);
  const body = receiveAll(fd, length);
  const { type } = decodeMessage(header, 0, HEADER_BYTES);
  if (type === OPERATION.CONTROL) return numberOf(answerOf(body), "minor");
  const reason = textOf(body).replace(/\0$/, "");
  throw new BlockError("EPROTO", `Cannot open a file of the daemon: it answers ${reason}`);
}

function sendAll(fd: number, bytes: Uint8Array<ArrayBuffer>): void {
  for (let rest = bytes; rest.length > 0;) {
    const count = send(fd, rest);
    if (count === WOULD_BLOCK) waitFor(fd, POLL_OUT);
    else rest = rest.subarray(count);
  }
}

function receiveAll(fd: number, length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length;) {
    const count = receive(fd, bytes.subarray(at));
    if (count === 0) throw new Error("the stream has ended");
    if (count === WOULD_BLOCK) waitFor(fd, POLL_IN);
    else at += count;
  }
  return bytes;
}

function waitFor(fd: number, events: number): void {
  const set = new PollSet();
  set.add(fd, events);
  set.wait(-1);
}
