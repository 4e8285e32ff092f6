/**
 * Lines of objects in memory, and the tables that say where they are: the ones used last. Both have a
 * bound in bytes. Lines are linked in the order of their use, so that a hit moves pointers and makes
 * nothing.
 *
 * @module
 */
import type { LineTable } from "./line_table.ts";

/** A line in memory. */
export interface Line {
  readonly owner: CachedObject;
  /** Its number in its object. */
  readonly number: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
  newer: Line | null;
  older: Line | null;
}

/** What is known of an object. */
export interface CachedObject {
  /** Place of its volume in the reader's list. */
  readonly origin: number;
  readonly seq: number;
  /** Null until it was loaded. */
  table: LineTable | null;
  /** The lines that are here. */
  readonly lines: Map<number, Line>;
  /** Calls that work with it: it stays. */
  busy: number;
  /** It was used since it was last looked at. */
  used: boolean;
}

/** The cache. */
export class LineCache {
  readonly #linesMax: number;
  readonly #tablesMax: number;
  readonly #objects: Map<number, CachedObject>[];
  #lineBytes = 0;
  #tableBytes = 0;
  #newest: Line | null = null;
  #oldest: Line | null = null;

  /** Bytes of lines and of tables at most, and how many volumes objects are from. */
  constructor(
    options: { readonly lines: number; readonly tables: number; readonly origins: number },
  ) {
    this.#linesMax = options.lines;
    this.#tablesMax = options.tables;
    this.#objects = Array.from({ length: options.origins }, () => new Map<number, CachedObject>());
  }

  /** Bytes of lines. */
  get lineBytes(): number {
    return this.#lineBytes;
  }

  /** Bytes of tables. */
  get tableBytes(): number {
    return this.#tableBytes;
  }

  /** What is here of an object. */
  find(origin: number, seq: number): CachedObject | undefined {
    const found = this.#objects[origin]?.get(seq);
    if (found !== undefined) found.used = true;
    return found;
  }

  /** The same; it is made if there is nothing. */
  object(origin: number, seq: number): CachedObject {
    const found = this.find(origin, seq);
    if (found !== undefined) return found;
    const made: CachedObject = {
      origin,
      seq,
      table: null,
      lines: new Map(),
      busy: 0,
      used: true,
    };
    this.#objects[origin]?.set(seq, made);
    return made;
  }

  /** A line, if it is here. */
  line(object: CachedObject, number: number): Line | undefined {
    const line = object.lines.get(number);
    if (line !== undefined && line !== this.#newest) {
      this.#unlink(line);
      this.#link(line);
    }
    return line;
  }

  /** Keeps a line. */
  put(owner: CachedObject, number: number, bytes: Uint8Array<ArrayBuffer>): void {
    if (owner.lines.has(number)) return;
    const line: Line = { owner, number, bytes, newer: null, older: null };
    owner.lines.set(number, line);
    this.#lineBytes += bytes.length;
    this.#link(line);
    while (this.#lineBytes > this.#linesMax && this.#oldest !== null) this.#evict(this.#oldest);
  }

  /** Keeps the table of an object. */
  setTable(object: CachedObject, table: LineTable): void {
    if (object.table !== null) return;
    object.table = table;
    this.#tableBytes += table.bytes;
    if (this.#tableBytes > this.#tablesMax) this.#evictTables();
  }

  /** Forgets an object, unless a call works with it. */
  forget(origin: number, seq: number): void {
    const object = this.#objects[origin]?.get(seq);
    if (object === undefined || object.busy > 0) return;
    for (const line of object.lines.values()) this.#evict(line);
    this.#tableBytes -= object.table?.bytes ?? 0;
    this.#objects[origin]?.delete(seq);
  }

  /** Drops objects that were not used since this was last done, the ones known longest first. */
  #evictTables(): void {
    // What is in use is passed by once; the second round finds it unused, unless it is busy.
    for (let round = 0; round < 2; round += 1) {
      for (const objects of this.#objects) {
        for (const object of objects.values()) {
          if (this.#tableBytes <= this.#tablesMax) return;
          if (object.used || object.busy > 0) object.used = false;
          else this.forget(object.origin, object.seq);
        }
      }
    }
  }

  #link(line: Line): void {
    line.older = this.#newest;
    line.newer = null;
    if (this.#newest !== null) this.#newest.newer = line;
    this.#newest = line;
    this.#oldest ??= line;
  }

  #unlink(line: Line): void {
    if (line.newer === null) this.#newest = line.older;
    else line.newer.older = line.older;
    if (line.older === null) this.#oldest = line.newer;
    else line.older.newer = line.newer;
  }

  #evict(line: Line): void {
    this.#unlink(line);
    line.owner.lines.delete(line.number);
    this.#lineBytes -= line.bytes.length;
  }
}
