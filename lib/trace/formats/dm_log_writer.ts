/**
 * Writes the log of dm-log-writes: see dm_log_writes.ts. As in the kernel an entry is written when its
 * request is done; where the trace does not tell that, in the order of requests. Any beginning of the log
 * is then a state that a crash may leave, and a flush has before it all that it covers.
 *
 * @module
 */
import { FLAG_FUA } from "../../block/request.ts";
import { BinaryOutput } from "../binary_output.ts";
import type { SubmitEvent, TraceEvent, TraceInfo } from "../event.ts";
import { PENDING_BYTES_MAX } from "../limits.ts";
import { Losses, pieceCount } from "../losses.ts";
import { Pending } from "../pending.ts";
import type { TraceBytes, TraceNotes } from "../source.ts";
import { TraceError } from "../trace_error.ts";
import { FLAG, setU64, SUPER_MAGIC, VERSION } from "./dm_log_layout.ts";

const SECTOR_BYTES = 512;
/** Bytes of a piece of a request that zeroes. */
const ZERO_BYTES = 1024 * 1024;

/** Writes one trace. */
export class DmLogWriter {
  readonly #completes: boolean;
  readonly #output = new BinaryOutput();
  readonly #losses = new Losses();
  readonly #pending = new Pending<number, SubmitEvent>();
  #bytes = 0;
  #entries = 0;

  /** `info` tells whether completions follow. */
  constructor(info: TraceInfo) {
    this.#completes = info.completes;
  }

  /** The bytes of the trace; the super block comes once more at the end. */
  async *write(batches: AsyncIterable<readonly TraceEvent[]>, notes: TraceNotes): TraceBytes {
    yield this.#super();
    for await (const batch of batches) {
      for (const event of batch) {
        const done = this.#done(event);
        if (done !== null) yield* this.#request(done);
      }
    }
    yield this.#output.take();
    for (const { operation } of this.#pending.values()) {
      this.#losses.count(`were left out: their ${operation} never ended`);
    }
    this.#losses.count("were left out: they were under way for too long", this.#pending.lost);
    this.#losses.tell(notes);
    return this.#super();
  }

  /** The request that an event ends; null if it ends none. */
  #done(event: TraceEvent): SubmitEvent | null {
    if (event.kind === "submit") {
      if (!this.#keeps(event)) return null;
      if (!this.#completes) return event;
      this.#pending.add(event.id, event);
      this.#bytes += event.payload?.length ?? 0;
      if (this.#bytes <= PENDING_BYTES_MAX) return null;
      throw new TraceError(`more than ${PENDING_BYTES_MAX} bytes of data are under way`);
    }
    const found = this.#pending.take(event.id);
    this.#bytes -= found?.payload?.length ?? 0;
    if (found === null || event.errno === null) return found;
    this.#losses.count("were left out: they failed");
    return null;
  }

  /** True for a request that is in such a log. Throws TraceError for a write without its data. */
  #keeps({ id, operation, offset, length, payload }: SubmitEvent): boolean {
    if (operation === "flush") return true;
    if (operation !== "write" && operation !== "zero" && operation !== "trim") {
      this.#losses.count(`were left out: the log has no ${operation}`);
      return false;
    }
    if (length === 0) {
      this.#losses.count("without data were left out");
      return false;
    }
    if (offset % SECTOR_BYTES !== 0 || length % SECTOR_BYTES !== 0) {
      this.#losses.count("were left out: they are not of whole sectors");
      return false;
    }
    if (operation === "write" && payload === null) {
      throw new TraceError(`it has not kept the data of request ${id}: record with the payload`);
    }
    return true;
  }

  *#request(event: SubmitEvent): Generator<Uint8Array<ArrayBuffer>, void> {
    const { operation, offset, length, payload } = event;
    const fua = (event.flags & FLAG_FUA) === 0 ? 0 : FLAG.fua;
    if (operation === "flush") this.#entry(0, 0, FLAG.flush);
    else if (operation === "trim") this.#entry(offset, length, FLAG.discard | fua);
    else if (payload !== null) {
      this.#entry(offset, length, fua);
      this.#output.add(payload);
    } else {
      yield* this.#zero(offset, length, fua);
    }
    if (this.#output.full) yield this.#output.take();
  }

  *#zero(offset: number, length: number, fua: number): Generator<Uint8Array<ArrayBuffer>, void> {
    const count = pieceCount(length, ZERO_BYTES);
    if (count === 0) this.#losses.count("that zero were left out: they are too long");
    for (let from = 0, left = count; left > 0; from += ZERO_BYTES, left -= 1) {
      const bytes = Math.min(ZERO_BYTES, length - from);
      this.#entry(offset + from, bytes, fua);
      this.#output.room(bytes);
      if (this.#output.full) yield this.#output.take();
    }
  }

  #entry(offset: number, length: number, flags: number): void {
    const at = this.#output.room(SECTOR_BYTES), view = this.#output.view;
    setU64(view, at, offset / SECTOR_BYTES);
    setU64(view, at + 8, length / SECTOR_BYTES);
    setU64(view, at + 16, flags);
    this.#entries += 1;
  }

  #super(): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(SECTOR_BYTES), view = new DataView(bytes.buffer);
    view.setUint32(0, SUPER_MAGIC.low, true);
    view.setUint32(4, SUPER_MAGIC.high, true);
    setU64(view, 8, VERSION);
    setU64(view, 16, this.#entries);
    view.setUint32(24, SECTOR_BYTES, true);
    return bytes;
  }
}
