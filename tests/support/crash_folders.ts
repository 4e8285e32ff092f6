/**
 * Folders in memory over a recording file layer, and from the record every state in which a crash may
 * leave names and contents.
 *
 * The fault model. Contents are as in recorded_files.ts. Names: a change of a folder (a name added by
 * creating, linking or making a folder, or removed) is on the medium when the folder was synced after
 * it. Of the changes since, the medium has for each name independently any one of the states that the
 * name had since. A file is there as long as some name leads to it.
 *
 * @module
 */
import type { FileAccess, FileOpenOptions, RawFile } from "../../lib/sys/file_access.ts";
import type { FolderAccess, FolderEntry, NamedFile, NewFile } from "../../lib/sys/folder_access.ts";
import { SystemError } from "../../lib/sys/system_error.ts";
import { hashText, seededRandom } from "../../lib/testing/random.ts";
import { CrashFiles } from "./crash_files.ts";
import { type Contents, type CrashState, crashStates, RecordedFiles } from "./recorded_files.ts";

/** A file by the name that it was created with, "/" for a folder; null: the name is free. */
type Meaning = string | null;

const FOLDER = "/";

interface NameEvent {
  /** Events of files before it. */
  readonly after: number;
  /** The folder. */
  readonly folder: string;
  /** The name that changes and what it means from now on; null: the folder is synced. */
  readonly change: { readonly path: string; readonly meaning: Meaning } | null;
}

function parent(path: string): string {
  return path.slice(0, Math.max(1, path.lastIndexOf("/")));
}

/** Names and contents after a crash. */
export interface FolderState {
  /** In words. */
  readonly what: string;
  /** Events of names that had happened. */
  readonly names: number;
  /** Contents by path, of what can be reached. */
  readonly files: Contents;
}

/** Folders and files that are recorded. `root` exists, durably. */
export class CrashFolders {
  readonly #inner = new CrashFiles({ seed: 1 });
  readonly #recorded = new RecordedFiles(this.#inner);
  readonly #names: Map<string, Meaning>;
  readonly #root: string;
  readonly #events: NameEvent[] = [];
  /** A planted bug: a sync of a folder, or of a file, does nothing. */
  readonly #broken: "nothing" | "folder sync" | "file sync";

  constructor(root: string, broken: "nothing" | "folder sync" | "file sync" = "nothing") {
    this.#root = root;
    this.#names = new Map([[root, FOLDER]]);
    this.#broken = broken;
  }

  /** How many changes of names there were: a promise made now holds for states that have as many. */
  get position(): number {
    return this.#events.length;
  }

  #change(path: string, meaning: Meaning): void {
    this.#names.set(path, meaning);
    const after = this.#recorded.events.length;
    this.#events.push({ after, folder: parent(path), change: { path, meaning } });
  }

  /** Contents of the files. */
  readonly files: FileAccess = {
    open: (path: string, options: FileOpenOptions): RawFile => {
      const meaning = this.#names.get(path) ?? null;
      if (meaning !== null) return this.#recorded.open(meaning, options);
      throw new SystemError("ENOENT", "open", path, "there is none");
    },
  };

  /** Names of the files. */
  readonly folders: FolderAccess = {
    make: (path: string): Promise<boolean> => {
      if ((this.#names.get(path) ?? null) !== null) return Promise.resolve(false);
      this.#change(path, FOLDER);
      return Promise.resolve(true);
    },
    create: (path: string): Promise<NewFile> => {
      const options = { readOnly: false, createSize: 0, direct: false, lock: false };
      const file = this.#recorded.open(path, options);
      this.#change(path, path);
      return Promise.resolve({
        write: (bytes: Uint8Array): Promise<void> =>
          Promise.resolve(file.write(bytes, file.size())),
        sync: () => file.flushAsync(),
        close: () => file.close(),
      });
    },
    link: (from: string, to: string): Promise<boolean> => {
      if ((this.#names.get(to) ?? null) !== null) return Promise.resolve(false);
      this.#change(to, this.#names.get(from) ?? null);
      return Promise.resolve(true);
    },
    remove: (path: string): Promise<boolean> => {
      if ((this.#names.get(path) ?? null) === null) return Promise.resolve(false);
      this.#change(path, null);
      return Promise.resolve(true);
    },
    sync: (path: string): Promise<void> => {
      const after = this.#recorded.events.length;
      if (this.#broken !== "folder sync") this.#events.push({ after, folder: path, change: null });
      return Promise.resolve();
    },
    entries: (path: string): Promise<FolderEntry[]> => {
      const found: FolderEntry[] = [];
      for (const [each, meaning] of this.#names) {
        if (meaning === null || parent(each) !== path || each === path) continue;
        found.push({ name: each.slice(path.length + 1), isFolder: meaning === FOLDER });
      }
      return Promise.resolve(found);
    },
    look: (path: string): Promise<NamedFile | null> => {
      const meaning = this.#names.get(path) ?? null;
      if (meaning === null) return Promise.resolve(null);
      const isFolder = meaning === FOLDER;
      const size = isFolder ? 0 : this.#recorded.open(meaning, {
        readOnly: true,
        direct: false,
        lock: false,
      }).size();
      return Promise.resolve({ size, modifiedMs: null, isFolder });
    },
  };

  /** The states, as the head of this file says. */
  *states(seed: number): Generator<FolderState> {
    const { start } = this.#recorded;
    const events = this.#recorded.events.filter(({ kind }) =>
      this.#broken !== "file sync" || kind !== "flush"
    );
    const bounds = { seed, prefixEvery: 1, singles: 4, subsets: 4 };
    for (const state of crashStates(start, events, bounds)) {
      for (let round = 0; round < 4; round += 1) yield this.#named(state, `${seed}:${round}`);
    }
  }

  #named(state: CrashState, seed: string): FolderState {
    const random = seededRandom(hashText(`${seed}:${state.what}`));
    const sure = this.#events.filter(({ after }) => after < state.position).length;
    const possible = this.#events.filter(({ after }) => after <= state.position).length;
    const names = sure + random.below(possible - sure + 1);
    const past = this.#events.slice(0, names);
    const found = new Map<string, Meaning>([[this.#root, FOLDER]]);
    const paths = new Set(past.flatMap(({ change }) => change === null ? [] : [change.path]));
    for (const path of paths) {
      const synced = past.findLastIndex(({ change, folder }) =>
        change === null && folder === parent(path)
      );
      const history = past.map((event, index) => ({ event, index }))
        .filter(({ event }) => event.change?.path === path);
      const durable = history.findLast(({ index }) => index < synced)?.event.change?.meaning ??
        null;
      const later = history.filter(({ index }) => index > synced)
        .map(({ event }) => event.change?.meaning ?? null);
      found.set(path, random.pick([durable, ...later]));
    }
    return { what: `${state.what}, ${names} changes of names`, names, files: reach(found, state) };
  }
}

/** What names that lead from the root can reach. */
function reach(names: ReadonlyMap<string, Meaning>, state: CrashState): Contents {
  const files = new Map<string, Uint8Array>();
  for (const [path, meaning] of names) {
    if (meaning === null || meaning === FOLDER) continue;
    let above = parent(path);
    while (names.get(above) === FOLDER && above.length > 1) above = parent(above);
    if (above.length > 1) continue;
    files.set(path, state.files.get(meaning) ?? new Uint8Array());
  }
  return files;
}
