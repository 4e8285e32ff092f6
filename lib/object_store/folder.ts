/**
 * Objects as files of a local folder: the key is the path below it. A new object is written under a
 * name of its own in `.new`, made durable (fdatasync), given its name with link(2), which fails if the
 * name is taken, and then its folder is made durable: so an object is whole whenever it can be seen,
 * and of several creations one succeeds, in whatever process. No part of a key begins with a dot, so
 * `.new` is no object. Files that a killed process left in `.new` are removed when the store is opened
 * and they are old.
 *
 * @module
 */
import type { Clock, Random } from "../block/context.ts";
import { hasErrno, toBlockError } from "../block/errors.ts";
import type { FileAccess } from "../sys/file_access.ts";
import { type FolderAccess, type FolderEntry, systemFolders } from "../sys/folder_access.ts";
import { bodyBytes, type StoreCounter, storeCounter } from "./counter.ts";
import { LEFTOVER_AGE_MS } from "./limits.ts";
import {
  type ByteRange,
  checkKey,
  type ObjectEntry,
  type ObjectStore,
  type StoreCallOptions,
  type StoreCounts,
  StoreError,
  type StoreErrorKind,
} from "./types.ts";

/** What a folder store works with. */
export interface FolderStoreContext {
  /** For the age of what was left over. */
  readonly clock: Clock;
  /** For names nobody else has. */
  readonly random: Random;
  /** Contents. */
  readonly files: FileAccess;
  /** Names; those of this machine if left out. */
  readonly folders?: FolderAccess;
  /** Nothing is to be changed: the folder has to exist, creating and deleting is refused. */
  readonly readOnly: boolean;
}

const NEW_FOLDER = ".new";
const TOKEN_BYTES = 16;

/** Kinds of errors that an errno of a file system stands for. */
const KIND_OF_ERRNO: Readonly<Record<string, StoreErrorKind>> = {
  ENOSPC: "full",
  EDQUOT: "full",
  EFBIG: "full",
  EACCES: "denied",
  EPERM: "denied",
  EROFS: "denied",
  EOPNOTSUPP: "unsupported",
};

function storeError(action: string, error: unknown): unknown {
  if (error instanceof StoreError || !hasErrno(error)) return error;
  const { errno, message } = toBlockError(error);
  const kind = KIND_OF_ERRNO[errno] ?? "unavailable";
  return new StoreError(kind, `Cannot ${action}: ${message}`, { cause: error, errno });
}

function folderOf(path: string): string {
  const slash = path.lastIndexOf("/");
  return slash < 0 ? "." : path.slice(0, Math.max(1, slash));
}

/** By the keys below it: a folder's begin with its name and a slash. */
function inKeyOrder(a: FolderEntry, b: FolderEntry): number {
  const left = a.isFolder ? `${a.name}/` : a.name;
  const right = b.isFolder ? `${b.name}/` : b.name;
  return left < right ? -1 : 1;
}

class FolderStore implements ObjectStore {
  readonly name: string;
  readonly #path: string;
  readonly #context: FolderStoreContext;
  readonly #folders: FolderAccess;
  readonly #counts: StoreCounter = storeCounter();
  /** Folders that are known to exist, durably. */
  readonly #made = new Set<string>();
  /** Of each folder the sync that runs, and the one that begins after it. */
  readonly #syncs = new Map<string, { running: Promise<void>; next?: Promise<void> }>();

  constructor(path: string, context: FolderStoreContext) {
    this.name = `dir:${path}`;
    this.#path = path;
    this.#context = context;
    this.#folders = context.folders ?? systemFolders;
  }

  get counts(): StoreCounts {
    return { ...this.#counts };
  }

  async open(): Promise<void> {
    await this.#doing("open", this.name, async () => {
      if (!this.#context.readOnly) {
        await this.#make(this.#path);
        await this.#make(`${this.#path}/${NEW_FOLDER}`);
        await this.#removeLeftovers();
        return;
      }
      if ((await this.#folders.look(this.#path))?.isFolder !== true) {
        throw new StoreError("no-bucket", `Cannot open ${this.name}: there is no such folder`);
      }
    });
  }

  async #doing<T>(verb: string, what: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      const place = what === this.name ? what : `${what} of ${this.name}`;
      throw storeError(`${verb} ${place}`, error);
    }
  }

  async #removeLeftovers(): Promise<void> {
    const folder = `${this.#path}/${NEW_FOLDER}`;
    for (const { name } of await this.#folders.entries(folder) ?? []) {
      const found = await this.#folders.look(`${folder}/${name}`);
      const modifiedMs = found?.modifiedMs ?? null;
      if (modifiedMs === null) continue;
      if (this.#context.clock.wall() - modifiedMs < LEFTOVER_AGE_MS) continue;
      await this.#folders.remove(`${folder}/${name}`);
    }
  }

  /** Makes a folder, and makes durable that it exists. */
  async #make(path: string): Promise<void> {
    if (this.#made.has(path)) return;
    await this.#folders.make(path);
    // Also if it exists: whoever made it may have died, or not have come so far.
    await this.#sync(folderOf(path));
    this.#made.add(path);
  }

  async #makeFoldersOf(key: string): Promise<void> {
    const parts = key.split("/").slice(0, -1);
    let path = this.#path;
    for (const part of parts) {
      path += `/${part}`;
      await this.#make(path);
    }
  }

  #refuseIfReadOnly(verb: string, what: string): void {
    if (!this.#context.readOnly) return;
    const message = `Cannot ${verb} ${what} of ${this.name}: it is open read-only`;
    throw new StoreError("denied", message, { errno: "EROFS" });
  }

  create(
    key: string,
    body: readonly Uint8Array<ArrayBuffer>[],
    { signal }: StoreCallOptions = {},
  ): Promise<"created" | "exists"> {
    return this.#doing("create", key, async () => {
      checkKey(key);
      this.#refuseIfReadOnly("create", key);
      signal?.throwIfAborted();
      this.#counts.puts += 1;
      this.#counts.bytesOut += bodyBytes(body);
      const path = `${this.#path}/${key}`;
      await this.#makeFoldersOf(key);
      const fresh = await this.#write(body);
      try {
        signal?.throwIfAborted();
        return await this.#link(fresh, path);
      } finally {
        await this.#folders.remove(fresh);
      }
    });
  }

  /** Writes the body under a name of its own; it is durable then. */
  async #write(body: readonly Uint8Array<ArrayBuffer>[]): Promise<string> {
    const token = new Uint8Array(TOKEN_BYTES);
    this.#context.random.fill(token);
    const path = `${this.#path}/${NEW_FOLDER}/${token.toHex()}`;
    const file = await this.#folders.create(path);
    try {
      for (const part of body) await file.write(part);
      await file.sync();
      return path;
    } catch (error) {
      await this.#folders.remove(path);
      throw error;
    } finally {
      file.close();
    }
  }

  /** Makes durable which names a folder has by now. Those who wait for the same one share a call. */
  #sync(folder: string): Promise<void> {
    const waiting = this.#syncs.get(folder)?.next;
    if (waiting !== undefined) return waiting;
    const running = this.#syncs.get(folder)?.running ?? Promise.resolve();
    const next = running.catch(() => undefined).then(() => {
      const call = this.#folders.sync(folder);
      this.#syncs.set(folder, { running: call });
      return call;
    });
    this.#syncs.set(folder, { running, next });
    return next;
  }

  async #link(fresh: string, path: string): Promise<"created" | "exists"> {
    const created = await this.#folders.link(fresh, path);
    if (!created && (await this.#folders.look(path))?.isFolder === true) {
      const message = `Cannot create ${path}: there are objects below that key`;
      throw new StoreError("unsupported", message, { errno: "EISDIR" });
    }
    try {
      // Also if it exists: whoever made it may not have come so far, and it is built upon from now on.
      await this.#sync(folderOf(path));
    } catch (error) {
      const message = `Cannot create ${path}: whether its name is durable is not known`;
      throw new StoreError("unclear", message, { cause: error });
    }
    return created ? "created" : "exists";
  }

  get(
    key: string,
    range?: ByteRange,
    { signal }: StoreCallOptions = {},
  ): Promise<Uint8Array<ArrayBuffer> | null> {
    return this.#doing("read", key, async () => {
      checkKey(key);
      signal?.throwIfAborted();
      this.#counts.gets += 1;
      const path = `${this.#path}/${key}`;
      const found = await this.#folders.look(path);
      if (found === null || found.isFolder) return null;
      const bytes = this.#read(path, range);
      this.#counts.bytesIn += bytes?.length ?? 0;
      return bytes;
    });
  }

  #read(path: string, range: ByteRange | undefined): Uint8Array<ArrayBuffer> | null {
    try {
      const file = this.#context.files.open(path, { readOnly: true, direct: false, lock: false });
      try {
        const size = file.size();
        const from = Math.min(size, range?.offset ?? 0);
        const bytes = new Uint8Array(Math.min(range?.length ?? size, size - from));
        if (bytes.length > 0) file.read(bytes, from);
        return bytes;
      } finally {
        file.close();
      }
    } catch (error) {
      // Deleted since it was looked for.
      if (toBlockError(error).errno === "ENOENT") return null;
      throw error;
    }
  }

  async *list(
    prefix: string,
    { signal, after = "" }: StoreCallOptions & { readonly after?: string } = {},
  ): AsyncGenerator<ObjectEntry> {
    this.#counts.lists += 1;
    yield* this.#walk("", { prefix, after, signal });
  }

  /** The objects below a folder, in order of their keys; folders that have none of them are left out. */
  async *#walk(
    folder: string,
    wanted: {
      readonly prefix: string;
      readonly after: string;
      readonly signal: AbortSignal | undefined;
    },
  ): AsyncGenerator<ObjectEntry> {
    const { prefix, after, signal } = wanted;
    signal?.throwIfAborted();
    const place = folder === "" ? this.#path : `${this.#path}/${folder.slice(0, -1)}`;
    const entries = await this.#doing("list", folder, () => this.#folders.entries(place)) ?? [];
    for (const { name, isFolder } of entries.sort(inKeyOrder)) {
      if (name.startsWith(".")) continue;
      const key = folder + name;
      if (isFolder) {
        const start = `${key}/`;
        const mayHave = start.startsWith(prefix) || prefix.startsWith(start);
        const isBehind = start > after || after.startsWith(start);
        if (mayHave && isBehind) yield* this.#walk(start, wanted);
        continue;
      }
      if (!key.startsWith(prefix) || key <= after) continue;
      const found = await this.#doing("list", key, () => this.#folders.look(`${place}/${name}`));
      if (found !== null) yield { key, size: found.size, modifiedMs: found.modifiedMs };
    }
  }

  async delete(keys: readonly string[], { signal }: StoreCallOptions = {}): Promise<void> {
    if (keys.length === 0) return;
    this.#counts.deletes += 1;
    for (const key of keys) {
      await this.#doing("delete", key, async () => {
        checkKey(key);
        this.#refuseIfReadOnly("delete", key);
        signal?.throwIfAborted();
        const path = `${this.#path}/${key}`;
        const found = await this.#folders.look(path);
        if (found !== null && !found.isFolder) await this.#folders.remove(path);
      });
    }
    const folders = new Set(keys.map((key) => folderOf(`${this.#path}/${key}`)));
    for (const folder of folders) {
      await this.#doing("delete from", folder, async () => {
        if (await this.#folders.look(folder) !== null) await this.#sync(folder);
      });
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }
}

/**
 * Opens a folder as an object store; it is made, unless it exists or the store is opened read-only. The
 * folder above has to exist. Throws StoreError.
 */
export async function openFolderStore(
  path: string,
  context: FolderStoreContext,
): Promise<ObjectStore> {
  const store = new FolderStore(path.replace(/(?<=.)\/+$/, ""), context);
  await store.open();
  return store;
}
