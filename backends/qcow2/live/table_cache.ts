/**
 * A cache of pieces of tables: L2 slices and refcount blocks. Pieces have one size and are found by a
 * number. What leaves the cache is chosen by the clock algorithm among pieces that are clean and not
 * pinned; if there are none, the owner is asked to write them back.
 *
 * @module
 */

/** A piece of a table in memory. */
export interface Table {
  /** What it is found by. */
  readonly key: number;
  /** Where it is in the image file, bytes. */
  host: number;
  /** Its bytes as they are, or are to be, in the file. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The same bytes. */
  readonly view: DataView<ArrayBuffer>;
  /** First byte that the file does not have yet. */
  dirtyFrom: number;
  /** End of what the file does not have yet; 0 if it has all. */
  dirtyTo: number;
  /** Writes of its content that are still to come: it must not be read again before. */
  pins: number;
  /** Used since the clock's hand came by. */
  used: boolean;
}

/** A cache of at most `capacity` pieces of `tableBytes` bytes, more only while all are dirty or pinned. */
export class TableCache {
  /** Bytes of a piece. */
  readonly tableBytes: number;
  /** Pieces that are to be written, oldest change first. */
  readonly dirty: Set<Table> = new Set();
  readonly #capacity: number;
  readonly #makeRoom: () => void;
  readonly #tables = new Map<number, Table>();
  readonly #ring: Table[] = [];
  #hand = 0;
  #last: Table | null = null;

  /** `makeRoom` is to write back whatever it can; afterwards pieces are clean. */
  constructor(tableBytes: number, capacity: number, makeRoom: () => void) {
    this.tableBytes = tableBytes;
    this.#capacity = capacity;
    this.#makeRoom = makeRoom;
  }

  /** Pieces in memory. */
  get size(): number {
    return this.#ring.length;
  }

  /** The piece, or undefined if it has to be added. It stays only until the next `add`. */
  find(key: number): Table | undefined {
    const last = this.#last;
    if (last !== null && last.key === key) return last;
    const table = this.#tables.get(key);
    if (table === undefined) return undefined;
    table.used = true;
    this.#last = table;
    return table;
  }

  /** Adds a piece that is not there; its bytes are the caller's to fill. */
  add(key: number, host: number): Table {
    if (this.#ring.length >= this.#capacity) this.#makePlace();
    const bytes = new Uint8Array(this.tableBytes);
    const view = new DataView(bytes.buffer);
    const table = { key, host, bytes, view, dirtyFrom: 0, dirtyTo: 0, pins: 0, used: true };
    this.#tables.set(key, table);
    this.#ring.push(table);
    this.#last = table;
    return table;
  }

  /** Notes that bytes `from` to `to` of a piece were changed. */
  touch(table: Table, from: number, to: number): void {
    if (table.dirtyTo === 0) {
      table.dirtyFrom = from;
      table.dirtyTo = to;
      this.dirty.add(table);
      return;
    }
    if (from < table.dirtyFrom) table.dirtyFrom = from;
    if (to > table.dirtyTo) table.dirtyTo = to;
  }

  /** Notes that the file has, or is about to get, all of a piece. */
  clean(table: Table): void {
    table.dirtyFrom = 0;
    table.dirtyTo = 0;
    this.dirty.delete(table);
  }

  /** Forgets a piece, changes and all. */
  drop(key: number): void {
    const table = this.#tables.get(key);
    if (table === undefined) return;
    this.#remove(table, this.#ring.indexOf(table));
  }

  /** Forgets everything, changes and all. */
  clear(): void {
    this.#tables.clear();
    this.dirty.clear();
    this.#ring.length = 0;
    this.#last = null;
    this.#hand = 0;
  }

  #remove(table: Table, at: number): void {
    this.#tables.delete(table.key);
    this.dirty.delete(table);
    const moved = this.#ring.pop();
    if (moved !== undefined && moved !== table) this.#ring[at] = moved;
    if (this.#last === table) this.#last = null;
  }

  #makePlace(): void {
    if (this.#evictOne()) return;
    this.#makeRoom();
    this.#evictOne();
  }

  /** Twice around at most: the first time takes the mark of use away. */
  #evictOne(): boolean {
    for (let steps = 2 * this.#ring.length; steps > 0; steps -= 1) {
      if (this.#hand >= this.#ring.length) this.#hand = 0;
      const table = this.#ring[this.#hand];
      if (table === undefined) return false;
      if (table.dirtyTo === 0 && table.pins === 0) {
        if (!table.used) {
          this.#remove(table, this.#hand);
          return true;
        }
        table.used = false;
      }
      this.#hand += 1;
    }
    return false;
  }
}
