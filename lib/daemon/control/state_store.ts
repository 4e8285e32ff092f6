/**
 * The targets that outlive the daemon: one SQLite file in the folder of `--state`, held by one daemon at
 * a time. A change is durable when the call comes back. What is kept of a target is what a client has
 * written into its nodes, so that a restart makes it in the way in which it was made first.
 *
 * @module
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import * as v from "valibot";
import { BlockError, toBlockError } from "../../block/errors.ts";
import type { Nodes } from "./nodes.ts";

/** The name of the file. */
const FILE_NAME = "targets.sqlite";
/** The version of its layout, in user_version. */
const LAYOUT = 1;
/** Only for the user of the daemon. */
const FOLDER_MODE = 0o700;

const nodesSchema = v.record(v.string(), v.string());
const rowsSchema = v.array(v.object({ name: v.string(), nodes: v.string() }));
const versionSchema = v.object({ user_version: v.number() });

/** A target that was kept. */
export interface KeptTarget {
  /** Its name. */
  readonly name: string;
  /** Its nodes; null if they cannot be read. */
  readonly nodes: Nodes | null;
}

/** The targets that outlive the daemon. */
export class StateStore implements Disposable {
  /** The file. */
  readonly path: string;
  readonly #database: DatabaseSync;

  /**
   * Opens the store in `folder`, which is made if it is missing. Errno: EBUSY if another daemon has it,
   * EIO if it is damaged, EINVAL if a newer version has written it, and those of files.
   */
  constructor(folder: string) {
    this.path = join(folder, FILE_NAME);
    try {
      mkdirSync(folder, { recursive: true, mode: FOLDER_MODE });
    } catch (error) {
      const { errno, message } = toBlockError(error);
      throw new BlockError(errno, `Cannot keep targets in ${folder}: ${message}`, { cause: error });
    }
    this.#database = this.#attempt(() => new DatabaseSync(this.path));
    try {
      this.#attempt(() => this.#prepare());
    } catch (error) {
      this.#database.close();
      throw error;
    }
  }

  /** All that is kept, in the order of names. */
  list(): KeptTarget[] {
    const rows = this.#attempt(() =>
      v.parse(
        rowsSchema,
        this.#database.prepare("SELECT name, nodes FROM target ORDER BY name").all(),
      )
    );
    return rows.map(({ name, nodes }) => ({ name, nodes: decode(nodes) }));
  }

  /** Keeps a target, in place of one of the same name. */
  put(name: string, nodes: Nodes): void {
    const text = JSON.stringify(Object.fromEntries(nodes));
    this.#attempt(() =>
      this.#database.prepare("INSERT OR REPLACE INTO target (name, nodes) VALUES (?, ?)")
        .run(name, text)
    );
  }

  /** Changes the size of a target, if it is kept. */
  resize(name: string, size: number): void {
    const kept = this.list().find((each) => each.name === name);
    if (kept === undefined || kept.nodes === null) return;
    this.put(name, new Map([...kept.nodes, ["size", String(size)]]));
  }

  /** Forgets a target, if it is kept. */
  delete(name: string): void {
    this.#attempt(() => this.#database.prepare("DELETE FROM target WHERE name = ?").run(name));
  }

  /** Lets another daemon have it. */
  [Symbol.dispose](): void {
    this.#database.close();
  }

  #prepare(): void {
    const database = this.#database;
    // The lock is taken by the first transaction and kept until the end.
    database.exec("PRAGMA locking_mode = EXCLUSIVE; PRAGMA busy_timeout = 0; BEGIN EXCLUSIVE");
    const { user_version: version } = v.parse(
      versionSchema,
      { ...database.prepare("PRAGMA user_version").get() },
    );
    if (version > LAYOUT) {
      throw new BlockError(
        "EINVAL",
        `Cannot use ${this.path}: a newer version of dmu has written it (layout ${version}, ` +
          `this one knows ${LAYOUT})`,
      );
    }
    database.exec(
      "CREATE TABLE IF NOT EXISTS target (name TEXT PRIMARY KEY, nodes TEXT NOT NULL);" +
        `PRAGMA user_version = ${LAYOUT}; COMMIT`,
    );
    // EXTRA: the journal's removal is durable too.
    database.exec("PRAGMA synchronous = EXTRA");
    const found = v.parse(v.record(v.string(), v.unknown()), {
      ...database.prepare("PRAGMA quick_check(1)").get(),
    });
    if (found["quick_check"] !== "ok") throw damaged(this.path, String(found["quick_check"]));
  }

  #attempt<T>(step: () => T): T {
    try {
      return step();
    } catch (error) {
      if (error instanceof BlockError) throw error;
      throw problemOf(this.path, error);
    }
  }
}

/** What SQLite calls its failures (sqlite3_errstr), of which the runtime gives the text alone. */
const LOCKED = ["database is locked", "database table is locked"];
const DAMAGED = ["database disk image is malformed", "file is not a database"];
const OTHERS = [
  ["database or disk is full", "ENOSPC"],
  ["attempt to write a readonly database", "EACCES"],
  ["unable to open database file", "EACCES"],
] as const;

function problemOf(path: string, cause: unknown): BlockError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  if (LOCKED.some((text) => reason.includes(text))) {
    const message = `Cannot use ${path}: another daemon keeps its targets there`;
    return new BlockError("EBUSY", message, { cause });
  }
  if (DAMAGED.some((text) => reason.includes(text))) return damaged(path, reason);
  const errno = OTHERS.find(([text]) => reason.includes(text))?.[1] ?? "EIO";
  return new BlockError(errno, `Cannot use ${path}: ${reason}`, { cause });
}

function damaged(path: string, reason: string): BlockError {
  return new BlockError(
    "EIO",
    `Cannot use ${path}: it is damaged (${reason}); restore it, or move it away to begin anew`,
  );
}

function decode(text: string): Nodes | null {
  try {
    const value: unknown = JSON.parse(text);
    return Array.isArray(value) ? null : new Map(Object.entries(v.parse(nodesSchema, value)));
  } catch {
    return null;
  }
}
