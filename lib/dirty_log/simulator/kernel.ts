/**
 * The kernel's side of dm-log-userspace, for tests of a daemon without that kernel: it numbers requests,
 * sends them again after 15 seconds, drops answers that come too late, and matches the rest by their
 * number alone. How frames travel is the caller's: in one process, or over a socket of the connector.
 *
 * @module
 */
import type { Clock } from "../../block/context.ts";
import { EINVAL, ENOSPC, ESRCH } from "../constants.ts";
import { PAYLOAD_BYTES_MAX } from "../limits.ts";
import { decodeFrame, encodeFrame, type LogMessage, makeMessage } from "../message.ts";

/** Time in ms after which a request is sent again. */
export const RESEND_MS = 15_000;
/** The errno of a bare acknowledgement that asks for the request again. */
const EAGAIN = 11;

/** What came of a request. */
export interface Consulted {
  /** 0, or a negative Linux errno. */
  readonly error: number;
  /** The payload of the reply. */
  readonly data: Uint8Array;
  /**
   * Bytes of reply for which there is room if the same is asked once more: the kernel has written the
   * length of this reply over it.
   */
  readonly room: number;
}

/** How a simulated kernel reaches its daemon. */
export interface KernelLink {
  /** Time. */
  readonly clock: Clock;
  /** Sends a frame to whoever listens; false if nobody does. */
  send(frame: Uint8Array<ArrayBuffer>): boolean;
}

/** A request of one log. */
export interface Consultation {
  /** The name of the log. */
  readonly uuid: string;
  /** Its number. */
  readonly luid: bigint;
  /** One of REQUEST_TYPES. */
  readonly type: number;
  /** The payload; none if left out. */
  readonly data?: Uint8Array;
  /** Bytes of reply for which there is room; 0 if not told. */
  readonly room?: number;
}

interface Waiting {
  readonly room: number;
  settle(result: Consulted | "again"): void;
}

const NOTHING = new Uint8Array(0);

/** See the top of the file. */
export class SimulatedLogKernel {
  readonly #link: KernelLink;
  readonly #waiting = new Map<number, Waiting>();
  #seq = 0;
  /** Frames sent, answers that came too late, requests sent again because none came. */
  readonly counts: { sent: number; late: number; resent: number } = { sent: 0, late: 0, resent: 0 };

  /** A kernel that has asked nothing yet. */
  constructor(link: KernelLink) {
    this.#link = link;
  }

  /** Time, for whoever plays a part of this kernel. */
  get clock(): Clock {
    return this.#link.clock;
  }

  /** Requests that wait for an answer. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** Asks, and asks again until there is an answer; -ESRCH at once if nobody listens. */
  async consult(asked: Consultation): Promise<Consulted> {
    const { uuid, luid, type, data = NOTHING, room = 0 } = asked;
    if (data.length > PAYLOAD_BYTES_MAX) return { error: -EINVAL, data: NOTHING, room };
    for (;;) {
      const seq = this.#seq = (this.#seq + 1) >>> 0;
      const frame = encodeFrame(makeMessage({ uuid, luid, type, data, seq }));
      const answer = this.#expect(seq, room);
      this.counts.sent += 1;
      if (!this.#link.send(frame)) {
        this.#waiting.delete(seq);
        return { error: -ESRCH, data: NOTHING, room };
      }
      const result = await this.#untilLate(seq, answer);
      if (result !== "again") return result;
      this.counts.resent += 1;
    }
  }

  /** Takes what a daemon sent. */
  receive(frame: Uint8Array): void {
    const decoded = decodeFrame(frame);
    if (decoded.kind === "ack") {
      const { seq, ack } = decoded.ack;
      const waiting = this.#take(seq);
      waiting?.settle(ack === EAGAIN ? "again" : { error: -ack, data: NOTHING, room: 0 });
    } else if (decoded.kind === "message") {
      const waiting = this.#take(decoded.message.seq);
      waiting?.settle(this.#result(decoded.message, waiting.room));
    }
  }

  #result({ error, data }: LogMessage, room: number): Consulted {
    if (data.length > room) return { error: -ENOSPC, data: NOTHING, room: 0 };
    return { error, data: data.slice(), room: data.length };
  }

  #take(seq: number): Waiting | undefined {
    const waiting = this.#waiting.get(seq);
    if (waiting === undefined) this.counts.late += 1;
    this.#waiting.delete(seq);
    return waiting;
  }

  #expect(seq: number, room: number): Promise<Consulted | "again"> {
    const { promise, resolve } = Promise.withResolvers<Consulted | "again">();
    this.#waiting.set(seq, { room, settle: resolve });
    return promise;
  }

  async #untilLate(
    seq: number,
    answer: Promise<Consulted | "again">,
  ): Promise<Consulted | "again"> {
    const timer = new AbortController();
    const late = this.#link.clock.sleep(RESEND_MS, timer.signal).then(
      (): "again" => "again",
      (): "again" => "again",
    );
    const result = await Promise.race([answer, late]);
    this.#waiting.delete(seq);
    timer.abort();
    return result;
  }
}
