/**
 * One stream of the records of several CPUs, in the order of their times as far as each file is.
 *
 * @module
 */
import { ByteWindow } from "../byte_window.ts";
import { OUTPUT_BYTES } from "../limits.ts";
import type { TraceNotes } from "../source.ts";
import { byteOrder, RECORD_BYTES } from "./blktrace_record.ts";

/** A file of a CPU. */
class CpuFile {
  readonly window: ByteWindow;
  /** Bytes of the next record, 0 if it is not there whole. */
  length = 0;
  /** Its time in ns. */
  timeNs = 0;

  constructor(input: ReadableStream<Uint8Array>) {
    this.window = new ByteWindow(input);
  }

  /** Looks at the next record. What is no record goes first, as it is: the reader tells of it. */
  look(): void {
    const { view, at, bytes, end, length } = this.window;
    this.length = 0;
    if (length < RECORD_BYTES) return;
    const little = byteOrder(bytes.subarray(at, end));
    if (little === null) {
      this.length = Math.min(length, OUTPUT_BYTES);
      this.timeNs = -1;
      return;
    }
    const whole = RECORD_BYTES + view.getUint16(at + 46, little);
    if (length < whole) return;
    const high = view.getUint32(little ? at + 12 : at + 8, little);
    const low = view.getUint32(little ? at + 8 : at + 12, little);
    this.length = whole;
    this.timeNs = high * 2 ** 32 + low;
  }

  /** Waits for the next record; false at the end. */
  async more(): Promise<boolean> {
    for (;;) {
      this.look();
      if (this.length > 0) return true;
      if (!await this.window.fill()) return false;
    }
  }
}

/** The records of the files. Tells in `notes` of a file that is cut off. */
export async function* mergedCpus(
  inputs: readonly ReadableStream<Uint8Array>[],
  notes: TraceNotes,
): AsyncGenerator<Uint8Array, void> {
  const files = inputs.map((input) => new CpuFile(input));
  const output = new Uint8Array(2 * OUTPUT_BYTES);
  try {
    let open = await stillOpen(files, notes);
    while (open.length > 0) {
      let end = 0;
      for (let next = earliest(open); next.length > 0; next = earliest(open)) {
        const { window, length } = next;
        if (end + length > output.length) break;
        output.set(window.bytes.subarray(window.at, window.at + length), end);
        end += length;
        window.at += length;
        next.look();
        if (next.length === 0 || end >= OUTPUT_BYTES) break;
      }
      if (end > 0) yield output.slice(0, end);
      open = await stillOpen(open, notes);
    }
  } finally {
    for (const { window } of files) await window.cancel();
  }
}

function earliest(files: readonly CpuFile[]): CpuFile {
  return files.reduce((first, each) => each.timeNs < first.timeNs ? each : first);
}

/** The files that have another record. */
async function stillOpen(files: readonly CpuFile[], notes: TraceNotes): Promise<CpuFile[]> {
  const open: CpuFile[] = [];
  for (const file of files) {
    if (file.length > 0 || await file.more()) {
      open.push(file);
      continue;
    }
    const { position, length } = file.window;
    if (length === 0) continue;
    notes.remarks.push(`a file is torn at byte ${position}: ${length} bytes were dropped`);
  }
  return open;
}
