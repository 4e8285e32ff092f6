/**
 * The worker of the acceptor's tests: an AcceptLoop with a handshake of lines. The client is greeted
 * with "hello", "go NAME" hands over, "quit" is answered "bye" and closes, "big" is answered by a
 * mebibyte and a hand-over, anything else breaks the protocol.
 *
 * @module
 */
import { type AcceptEvent, type AcceptLimits, AcceptLoop } from "../../lib/driver/accept_loop.ts";
import type { HandOver, Handshake } from "../../lib/driver/handshake.ts";
import { WakeCounter } from "../../lib/driver/wake.ts";
import { workerScope } from "../../lib/sys/worker_scope.ts";
import { ProtocolError } from "../../lib/stream/frame.ts";
import type { OutputBuffer } from "../../lib/stream/session.ts";

/** Bytes that answer "big". */
export const BIG_BYTES = 1 << 20;

/** How a line handshake ends. */
export type LineEnd =
  | { readonly kind: "close"; readonly reason: string }
  | { readonly kind: "hand-over"; readonly name: string; readonly unread: Uint8Array };

/** What starts the worker's loop. */
export interface StartMessage {
  readonly kind: "start";
  readonly listenFds: readonly number[];
  readonly wakeFd: number;
  /** One Int32 in ms. */
  readonly clock: SharedArrayBuffer;
  readonly limits: Partial<AcceptLimits>;
}

/** What the worker is sent. */
export type ToWorker = StartMessage | { readonly kind: "count" } | { readonly kind: "stop" };

/** What the worker sends. */
export type FromWorker =
  | { readonly kind: "hand-over"; readonly handOver: HandOver<LineEnd> }
  | { readonly kind: "event"; readonly event: AcceptEvent }
  | { readonly kind: "count"; readonly count: number; readonly ended: number }
  | { readonly kind: "stopped"; readonly ended: number };

let ended = 0;

class LineHandshake implements Handshake<LineEnd> {
  result: LineEnd | null = null;
  #text = "";
  readonly #output: Uint8Array[] = [new TextEncoder().encode("hello\n")];

  get ready(): boolean {
    return this.result === null;
  }

  receive(chunk: Uint8Array): void {
    this.#text += new TextDecoder("latin1").decode(chunk);
    const end = this.#text.indexOf("\n");
    if (end === -1) return;
    const line = this.#text.slice(0, end);
    const unread = Uint8Array.from(this.#text.slice(end + 1), (letter) => letter.charCodeAt(0));
    if (line === "quit") {
      this.#output.push(new TextEncoder().encode("bye\n"));
      this.result = { kind: "close", reason: "the client quit" };
    } else if (line === "big" || line.startsWith("go ")) {
      if (line === "big") this.#output.push(new Uint8Array(BIG_BYTES).fill(66));
      this.result = { kind: "hand-over", name: line.slice(3), unread };
    } else throw new ProtocolError(`Cannot understand ${line}: it is no command`);
  }

  takeOutput(): OutputBuffer | null {
    const bytes = this.#output.shift();
    return bytes === undefined ? null : { bytes, release: (): void => {} };
  }

  end(): void {
    ended += 1;
  }
}

const scope = workerScope();
if (scope !== null) {
  const counter = new WakeCounter();
  let loop: AcceptLoop<LineEnd> | null = null;
  let stopping = false;
  const send = (message: FromWorker): void => scope.postMessage(message);
  const start = async (message: StartMessage): Promise<void> => {
    const clock = new Int32Array(message.clock);
    loop = new AcceptLoop<LineEnd>({
      listeners: message.listenFds.map((fd, i) => ({ fd, label: `listener ${i}` })),
      wakeFd: message.wakeFd,
      clock: { now: (): number => Atomics.load(clock, 0) * 1_000 },
      createHandshake: (): LineHandshake => new LineHandshake(),
      onHandOver: (handOver): void => send({ kind: "hand-over", handOver }),
      onEvent: (event): void => send({ kind: "event", event }),
      limits: message.limits,
    });
    while (!stopping) await counter.caughtUp(loop.run());
    loop.close("the acceptor stops");
    send({ kind: "stopped", ended });
  };
  scope.addEventListener("message", ({ data }: MessageEvent<unknown>) => {
    // The sender is the test beside this file.
    const message = data as ToWorker;
    if (message.kind === "start") start(message);
    if (message.kind === "stop") stopping = true;
    if (message.kind === "count") send({ kind: "count", count: loop?.count ?? 0, ended });
    if (message.kind !== "start") counter.heard();
  });
}
