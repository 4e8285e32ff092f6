/**
 * The real xenstored and the store of this project side by side: each request goes to both, and what
 * comes back on any connection, replies and events, is shown in a form that can be compared.
 *
 * @module
 */
import assert from "node:assert/strict";
import {
  bytesOf,
  decodeMessage,
  encodeMessage,
  type Message,
  OPERATION,
  operationName,
  payloadLength,
  Store,
  textOf,
  XenstoreSession,
} from "../../lib/xenstore/mod.ts";
import type { OraclePeer, Xenstored } from "../support/xenstored.ts";
import { drain } from "../xenstore/wire.ts";

/** Domains that exist and may be introduced. */
export const DOMAINS = [1, 2, 3, 5, 7] as const;
/** Request number of the requests that show that everything before has come. */
const PING_ID = 0xfeed;

/** A request of a connection; "|" in the payload is NUL. */
export interface Step {
  /** Which connection: a number of DOMAINS as "d5", or "a", "b", "c" of domain 0. */
  readonly peer: string;
  readonly type: number;
  readonly transactionId: number;
  readonly payload: string;
}

/** What both servers say to one request. */
export interface Answers {
  /** Replies and events of the real one, by connection. */
  readonly theirs: readonly string[];
  /** The same of this project's. */
  readonly ours: readonly string[];
  /** Payload of the real one's reply, null for an error. */
  readonly reply: string | null;
}

/** Both servers, with the same connections. */
export class Pair {
  readonly store = new Store();
  readonly #peers = new Map<string, { oracle: OraclePeer; here: XenstoreSession }>();
  readonly #oracle: Xenstored;
  #requestId = 0;

  constructor(oracle: Xenstored) {
    this.#oracle = oracle;
    for (const domid of DOMAINS) {
      oracle.create(domid);
      this.store.domains.get(domid);
    }
  }

  /** Opens connections of domain 0. */
  async open(...names: string[]): Promise<void> {
    for (const name of names) {
      const here = new XenstoreSession(this.store, { domid: 0 });
      this.#peers.set(name, { oracle: await this.#oracle.connect(), here });
    }
  }

  /** Introduces a domain through the first connection and opens its ring. */
  async introduce(domid: number): Promise<void> {
    const [first = ""] = this.#peers.keys();
    await this.run({
      peer: first,
      type: OPERATION.INTRODUCE,
      transactionId: 0,
      payload: `${domid}|5|2|`,
    });
    const here = new XenstoreSession(this.store, { domid });
    this.#peers.set(`d${domid}`, { oracle: this.#oracle.ring(domid), here });
  }

  [Symbol.dispose](): void {
    for (const { oracle } of this.#peers.values()) oracle.close();
  }

  /** What both say to a request, on all connections. */
  async run(step: Step): Promise<Answers> {
    const { peer: name, type, transactionId, payload } = step;
    const peer = this.#peers.get(name);
    assert.ok(peer !== undefined, name);
    const requestId = ++this.#requestId;
    const bytes = bytesOf(payload.replaceAll("|", "\0"));
    const message = encodeMessage({ type, requestId, transactionId, payload: bytes });
    await peer.oracle.send(message);
    peer.here.receive(message);
    const theirs: string[] = [], ours: string[] = [];
    let reply: string | null = null;
    // The one that asked answers first: then whatever its request has caused is queued everywhere.
    const names = [name, ...[...this.#peers.keys()].filter((each) => each !== name)];
    for (const each of names) {
      const other = this.#peers.get(each);
      assert.ok(other !== undefined);
      for (const got of await untilPing(other.oracle)) {
        if (got.requestId === requestId && got.type === type) reply = textOf(got.payload);
        theirs.push(show(each, got));
      }
      for (const got of messages(drain(other.here))) ours.push(show(each, got));
    }
    // The domains live on when xenstored forgets them.
    for (const domid of DOMAINS) this.store.domains.get(domid);
    return { theirs, ours, reply };
  }
}

async function untilPing(peer: OraclePeer): Promise<Message[]> {
  const ping = { type: OPERATION.GET_DOMAIN_PATH, requestId: PING_ID, transactionId: 0 };
  await peer.send(encodeMessage({ ...ping, payload: bytesOf("0\0") }));
  const found: Message[] = [];
  for (;;) {
    const message = await peer.next();
    if (message.requestId === PING_ID) return found;
    found.push(message);
  }
}

/** The messages in a run of bytes. */
export function messages(bytes: Uint8Array): Message[] {
  const found: Message[] = [];
  for (let at = 0; at < bytes.length;) {
    const end = at + 16 + payloadLength(bytes, at);
    found.push(decodeMessage(bytes, at, end));
    at = end;
  }
  return found;
}

/** A message as it is compared. */
export function show(peer: string, { type, requestId, transactionId, payload }: Message): string {
  const text = textOf(payload).replaceAll("\0", "|");
  // Generations count what is done inside: only that they are numbers is the same.
  const shown = type === OPERATION.DIRECTORY_PART ? text.replace(/^\d+\|/, "N|") : text;
  return `${peer} ${operationName(type)} ${requestId} ${transactionId} ${JSON.stringify(shown)}`;
}
