/**
 * Lines of objects in memory: the ones used last, of so many bytes. They are linked in the order of
 * their use, so that a hit moves pointers and makes nothing.
 *
 * @module
 */

/** A line in memory. */
interface Line {
  readonly owner: CachedObject;
  readonly number: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
  newer: Line | null;
  older: Line | null;
}

/** An object that has lines here. */
interface CachedObject {
  readonly key: number;
  readonly lines: Map<number, Line>;
}

/** The cache. Objects are known by a number that their owner makes. */
export class LineCache {
  readonly #bytesMax: number;
  readonly #objects = new Map<number, CachedObject>();
  #bytes = 0;
  #newest: Line | null = null;
  #oldest: Line | null = null;

  /** Bytes of lines at most. */
  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** Bytes of lines. */
  get bytes(): number {
    return this.#bytes;
  }

  /** A line, if it is here; it is the one used last then. */
  get(object: number, number: number): Uint8Array<ArrayBuffer> | null {
    const line = this.#objects.get(object)?.lines.get(number);
    if (line === undefined) return null;
    if (line !== this.#newest) {
      this.#unlink(line);
      this.#link(line);
    }
    return line.bytes;
  }

  /** Keeps a line; those unused for longest have to go if there are too many. */
  put(object: number, number: number, bytes: Uint8Array<ArrayBuffer>): void {
    let owner = this.#objects.get(object);
    if (owner === undefined) {
      owner = { key: object, lines: new Map() };
      this.#objects.set(object, owner);
    }
    if (owner.lines.has(number)) return;
    const line: Line = { owner, number, bytes, newer: null, older: null };
    owner.lines.set(number, line);
    this.#bytes += bytes.length;
    this.#link(line);
    while (this.#bytes > this.#bytesMax && this.#oldest !== null) this.#evict(this.#oldest);
  }

  /** Forgets an object. */
  forget(object: number): void {
    for (const line of this.#objects.get(object)?.lines.values() ?? []) this.#evict(line);
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
    const { owner } = line;
    this.#unlink(line);
    owner.lines.delete(line.number);
    if (owner.lines.size === 0) this.#objects.delete(owner.key);
    this.#bytes -= line.bytes.length;
  }
}
