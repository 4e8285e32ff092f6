/** What tests of the blocking driver share: a loop whose turns and time they make, and clients at pairs of sockets. @module */
import assert from "node:assert/strict";
import type { Device } from "../../lib/block/device.ts";
import { OPEN_GATE } from "../../lib/block/request.ts";
import { SessionLoop } from "../../lib/driver/session_loop.ts";
import type { NbdServerSession } from "../../lib/nbd/server_session.ts";
import type { VectorPool } from "../../lib/sys/io_vector.ts";
import { closeEvent, openEvent } from "../../lib/sys/poll.ts";
import {
  closeDescriptor,
  openSocketPair,
  receive,
  send,
  WOULD_BLOCK,
} from "../../lib/sys/socket.ts";
import { SystemError } from "../../lib/sys/system_error.ts";
import { deviceOver, joined, ram, sessionFor } from "../nbd/fixtures.ts";

const KIB = 1024;

/** A client's end of a connection. */
export class Client {
  readonly fd: number;
  readonly received: Uint8Array[] = [];
  ended = false;
  /** What did not fit into the socket yet. */
  #unsent = new Uint8Array(0);

  constructor(fd: number) {
    this.fd = fd;
  }

  /** Sends as much as fits; true when all has gone. */
  send(bytes: Uint8Array): boolean {
    this.#unsent = joined([this.#unsent, bytes]).slice();
    while (this.#unsent.length > 0) {
      const count = send(this.fd, this.#unsent);
      if (count === WOULD_BLOCK) return false;
      this.#unsent = this.#unsent.slice(count);
    }
    return true;
  }

  /** Takes what is there, up to `most` bytes; how many came. */
  take(most = Infinity): number {
    let total = 0;
    while (total < most && !this.ended) {
      const into = new Uint8Array(Math.min(most - total, 64 * KIB));
      const count = this.#receive(into);
      if (count === WOULD_BLOCK) break;
      if (count <= 0) this.ended = true;
      else this.received.push(into.subarray(0, count));
      total += Math.max(count, 0);
    }
    return total;
  }

  #receive(into: Uint8Array<ArrayBuffer>): number {
    try {
      return receive(this.fd, into);
    } catch (error) {
      assert.ok(error instanceof SystemError && error.code === "ECONNRESET");
      return 0;
    }
  }

  get bytes(): Uint8Array {
    return joined(this.received);
  }
}

/** A connection: its client, its number in the loop and its session there. */
export interface Connected {
  readonly client: Client;
  readonly id: number;
  readonly session: NbdServerSession;
}

/** A loop and what belongs to it. */
export interface Bed {
  readonly loop: SessionLoop;
  readonly device: Device;
  readonly wakeFd: number;
  /** Why each connection has ended, by number. */
  readonly ends: Map<number, string | null>;
  readonly time: { now_ms: number };
  /** A new connection, its number, and the session that serves it. */
  connect(): Connected;
}

/** Runs `fn` with a loop over `settings.device`, or a disk in memory of 1 MiB whose bytes are their offsets. */
export async function withLoop(
  fn: (bed: Bed) => void | Promise<void>,
  settings: {
    scarce?: () => boolean;
    device?: Device;
    vectors?: VectorPool;
    /** The loop waits for the storage. */
    polls?: boolean;
    /** Another reason than requests for which `run` returns. */
    waits?: () => boolean;
  } = {},
): Promise<void> {
  await using device = settings.device ?? deviceOver(ram().backend);
  const wakeFd = openEvent();
  const ends = new Map<number, string | null>();
  const time = { now_ms: 0 };
  const clients: Client[] = [];
  const loop = new SessionLoop({
    wakeFd,
    now_ms: () => time.now_ms,
    waits: () => device.inFlight > 0 || settings.waits?.() === true,
    scarce: settings.scarce ?? ((): boolean => false),
    scarceSweep_ms: 5_000,
    scarcePartialBytes: 1_000,
    ended: (id, cause) => ends.set(id, cause?.message ?? null),
  });
  const connect = (): Connected => {
    const [here, there] = openSocketPair();
    const client = new Client(here);
    const id = clients.push(client) - 1;
    const session = sessionFor(
      device,
      "simple",
      {},
      OPEN_GATE,
      settings.vectors,
      settings.polls,
    );
    loop.add(id, there, session);
    return { client, id, session };
  };
  try {
    await fn({ loop, device, wakeFd, ends, time, connect });
  } finally {
    loop.close(new Error("the test is over"));
    for (const { fd } of clients) closeDescriptor(fd);
    closeEvent(wakeFd);
  }
  assert.equal(device.pool.takenCount, 0, "buffers are out after the end");
}
