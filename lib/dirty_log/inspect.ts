/**
 * Looking at a disk log while nobody uses it: what its header says, which regions are dirty, and what is
 * wrong with it. Nothing is written.
 *
 * @module
 */
import type { FileAccess, RawFile } from "../sys/file_access.ts";
import { DISK_LOG_BITMAP_OFFSET, SECTOR_BYTES } from "./constants.ts";
import { logBytes, type LogHeader, readLog, regionsIn } from "./disk_layout.ts";
import { REGIONS_MAX } from "./limits.ts";
import { RegionBitmap } from "./region_bitmap.ts";

/** What was found on a medium. */
export interface InspectedLog {
  /** Bytes of the medium. */
  readonly size: number;
  /** What its start says. */
  readonly header: LogHeader;
  /** Regions whose bits are there: as many as the header says, or fit. 0 unless there is a log. */
  readonly regions: number;
  /** Which of them are clean. */
  readonly clean: RegionBitmap;
  /** What is wrong, in words; a log with none is as a kernel would take it. */
  readonly problems: readonly string[];
}

/** The largest number of regions that a header may have, which means as many as there are. */
const REGIONS_UNKNOWN = 2n ** 64n - 1n;

function openToRead(files: FileAccess, path: string): RawFile {
  const file = files.open(path, { readOnly: true, direct: false, lock: false });
  if (!file.isBlockDevice) return file;
  // What a kernel has written went past the page cache.
  file.close();
  return files.open(path, { readOnly: true, direct: true, lock: false });
}

function problemsOf(header: LogHeader, size: number): string[] {
  if (header.kind === "new") return ["there is no log: its first 1024 bytes are zero"];
  if (header.kind === "damaged") return [`the header is damaged: ${header.reason}`];
  const { regions } = header;
  if (regions === REGIONS_UNKNOWN) return [];
  if (regions === 0n) return ["the header says 0 regions"];
  if (regions <= BigInt(Math.min(regionsIn(size), REGIONS_MAX))) return [];
  const needed = regions > BigInt(REGIONS_MAX)
    ? `at most ${REGIONS_MAX} are possible`
    : `which take ${logBytes(Number(regions), 1)} bytes, and there are ${size}`;
  return [`the header says ${regions} regions, ${needed}`];
}

/** Reads a log. Throws SystemError if the medium cannot be opened or read. */
export function inspectLog(files: FileAccess, path: string): InspectedLog {
  const file = openToRead(files, path);
  try {
    const size = file.size(), unit = Math.max(SECTOR_BYTES, file.alignment);
    if (size < DISK_LOG_BITMAP_OFFSET) {
      const reason = `the medium has ${size} bytes, a header takes ${DISK_LOG_BITMAP_OFFSET}`;
      return {
        size,
        header: { kind: "damaged", reason },
        regions: 0,
        clean: new RegionBitmap(0),
        problems: [reason],
      };
    }
    const { header, regions, bits } = readLog(file, Math.min(regionsIn(size), REGIONS_MAX), unit);
    const clean = new RegionBitmap(regions);
    clean.load(bits, regions);
    return { size, header, regions, clean, problems: problemsOf(header, size) };
  } finally {
    file.close();
  }
}
