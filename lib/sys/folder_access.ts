/**
 * Names of files: what a store of many files needs of an operating system beside their contents, so
 * that tests can put a layer underneath that forgets names which were not made durable.
 *
 * @module
 */

/** What a name stands for. */
export interface FolderEntry {
  /** The last part of its path. */
  readonly name: string;
  /** Has entries itself. */
  readonly isFolder: boolean;
}

/** Facts of a file. */
export interface NamedFile {
  /** Bytes. */
  readonly size: number;
  /** Its last change in ms since 1970; null if the system does not tell. */
  readonly modifiedMs: number | null;
  /** Has entries itself. */
  readonly isFolder: boolean;
}

/** A file that is being written for the first time. Every call rejects with an error that has the errno. */
export interface NewFile {
  /** Appends all of it. */
  write(bytes: Uint8Array): Promise<void>;
  /** Makes durable what was written before (fdatasync). */
  sync(): Promise<void>;
  /** Closes it. */
  close(): void;
}

/** Works on names, off the calling thread. Every call rejects with an error that has the errno. */
export interface FolderAccess {
  /** Makes a folder; one that exists is no error. True if it was made. The one above has to exist. */
  make(path: string): Promise<boolean>;
  /** Makes a file under a name that nobody has, with mode 0600. Nothing of it is durable. */
  create(path: string): Promise<NewFile>;
  /** Gives a file a second name, unless that name is taken: then false. */
  link(from: string, to: string): Promise<boolean>;
  /** Removes the name of a file; false if there is none. */
  remove(path: string): Promise<boolean>;
  /** Makes durable which names a folder has. */
  sync(path: string): Promise<void>;
  /** What a folder has, in no order; null if there is no such folder. */
  entries(path: string): Promise<FolderEntry[] | null>;
  /** What there is of this name; null if nothing. */
  look(path: string): Promise<NamedFile | null>;
}

async function unless<T>(
  exception: new (...args: never[]) => Error,
  call: () => Promise<void>,
  then: T,
  otherwise: T,
): Promise<T> {
  try {
    await call();
    return then;
  } catch (error) {
    if (error instanceof exception) return otherwise;
    throw error;
  }
}

/** Folders of this machine. */
export const systemFolders: FolderAccess = {
  async make(path): Promise<boolean> {
    const made = await unless(Deno.errors.AlreadyExists, () => Deno.mkdir(path), true, false);
    if (!made && !(await Deno.stat(path)).isDirectory) {
      throw new Deno.errors.NotADirectory(`Cannot make the folder ${path}: a file has that name`);
    }
    return made;
  },
  async create(path): Promise<NewFile> {
    const file = await Deno.open(path, { write: true, createNew: true, mode: 0o600 });
    return {
      async write(bytes): Promise<void> {
        for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
      },
      sync: () => file.syncData(),
      close: () => file.close(),
    };
  },
  link: (from, to) => unless(Deno.errors.AlreadyExists, () => Deno.link(from, to), true, false),
  remove: (path) => unless(Deno.errors.NotFound, () => Deno.remove(path), true, false),
  async sync(path): Promise<void> {
    using folder = await Deno.open(path, { read: true });
    await folder.sync();
  },
  async entries(path): Promise<FolderEntry[] | null> {
    const found: FolderEntry[] = [];
    try {
      for await (const { name, isDirectory } of Deno.readDir(path)) {
        found.push({ name, isFolder: isDirectory });
      }
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return null;
      throw error;
    }
    return found;
  },
  async look(path): Promise<NamedFile | null> {
    try {
      const { size, mtime, isDirectory } = await Deno.stat(path);
      return { size, modifiedMs: mtime?.getTime() ?? null, isFolder: isDirectory };
    } catch (error) {
      if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) {
        return null;
      }
      throw error;
    }
  },
};
