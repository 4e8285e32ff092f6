/**
 * A client that sends what it is told, valid or not, and reads only when told: what the tests attack
 * servers with.
 *
 * @module
 */
import { COMMAND, OPTION } from "../../lib/nbd/constants.ts";
import { ascii, compact, hex, joined } from "../nbd/fixtures.ts";
import { FIXED_NO_ZEROES, option } from "../nbd/handshake_messages.ts";

/** NBDMAGIC, IHAVEOPT and the server's flags. */
export const GREETING_BYTES = 18;
/** Size and flags, what EXPORT_NAME is answered with. */
const EXPORT_BYTES = 10;

/** The bytes that open an export in the plainest way. */
export function entrance(name: string): Uint8Array {
  return hex(FIXED_NO_ZEROES + option(OPTION.EXPORT_NAME, ascii(name)));
}

/** Read requests with rising cookies for `length` bytes at 0. */
export function reads(count: number, length: number): Uint8Array {
  return joined(
    Array.from({ length: count }, (_, cookie) => compact(COMMAND.READ, cookie, 0, length)),
  );
}

/** A connection on which nothing happens by itself. */
export class RawClient implements Disposable {
  readonly #conn: Deno.Conn;
  #closed = false;

  private constructor(conn: Deno.Conn) {
    this.#conn = conn;
  }

  /** Connects to the unix socket at `path`. */
  static async connect(path: string): Promise<RawClient> {
    return new RawClient(await Deno.connect({ transport: "unix", path }));
  }

  /** Connects, and is in the transmission phase of export `name`. */
  static async enter(path: string, name: string): Promise<RawClient> {
    const client = await RawClient.connect(path);
    await client.send(entrance(name));
    await client.read(GREETING_BYTES + EXPORT_BYTES);
    return client;
  }

  /** Sends all; false if the server has closed the connection. */
  async send(bytes: Uint8Array): Promise<boolean> {
    try {
      for (let at = 0; at < bytes.length;) at += await this.#conn.write(bytes.subarray(at));
      return true;
    } catch (error) {
      if (this.#closed || isLoss(error)) return false;
      throw error;
    }
  }

  /** Reads `length` bytes, fewer if the server closes the connection before. */
  async read(length: number): Promise<Uint8Array> {
    const into = new Uint8Array(length);
    let at = 0;
    while (at < length) {
      const count = await this.#readSome(into.subarray(at));
      if (count === 0) break;
      at += count;
    }
    return into.subarray(0, at);
  }

  /** Reads and forgets everything until the server closes the connection. */
  async drain(): Promise<number> {
    const into = new Uint8Array(64 * 1024);
    let total = 0;
    for (;;) {
      const count = await this.#readSome(into);
      if (count === 0) return total;
      total += count;
    }
  }

  async #readSome(into: Uint8Array): Promise<number> {
    try {
      return await this.#conn.read(into) ?? 0;
    } catch (error) {
      if (this.#closed || isLoss(error)) return 0;
      throw error;
    }
  }

  /** Sends nothing more; the server sees the end. */
  async endInput(): Promise<void> {
    try {
      await this.#conn.closeWrite();
    } catch (error) {
      if (!this.#closed && !isLoss(error)) throw error;
    }
  }

  /** Closes at once. */
  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#conn.close();
  }
}

function isLoss(error: unknown): boolean {
  return error instanceof Deno.errors.BrokenPipe ||
    error instanceof Deno.errors.ConnectionReset ||
    error instanceof Deno.errors.NotConnected;
}
