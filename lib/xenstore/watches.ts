/**
 * Watches: who hears of changes below which path. Found by the paths above a change, so that a change
 * costs by its depth and not by the number of watches. Pure.
 *
 * @module
 */
import { parentPath } from "./path.ts";
import type { Permissions } from "./permissions.ts";

/** A watch. */
export interface Watch {
  /** What is watched: an absolute path or a special one. */
  readonly path: string;
  /** The path as it was registered. */
  readonly registered: string;
  /** Repeated by every event, opaque. */
  readonly token: string;
  /** Levels below `path` that count; Infinity for all. */
  readonly depth: number;
  /** Events come in the order of these, as xenstored goes through its connections. */
  readonly order: readonly [connection: number, watch: number];
  /** Whether the one who watches may hear of this change. */
  readonly permits: (change: Change) => boolean;
  /** Takes an event; must not change the store. */
  readonly deliver: (path: string, token: string) => void;
}

/** What events are made of. */
export interface Change {
  /** The node that changed, or a special path. */
  readonly path: string;
  /** Only watches of exactly this path hear of it. */
  readonly exact: boolean;
  /** Permissions of which one has to let the watcher read. */
  readonly permissions: readonly (Permissions | undefined)[];
  /** What watches with a depth of 1 see below a special path: the number of a domain. */
  readonly detail?: string;
}

function byOrder(a: Watch, b: Watch): number {
  return a.order[0] - b.order[0] || a.order[1] - b.order[1];
}

/** Slashes of a path below another: how many levels it is down. */
function levelsBelow(path: string, above: string): number {
  if (path === above) return 0;
  let levels = 0;
  for (let at = above === "/" ? 0 : above.length; at < path.length; at++) {
    if (path[at] === "/") levels += 1;
  }
  return levels;
}

/** The path of an event as the watch wants it: relative if it was registered so. */
function eventPath(watch: Watch, path: string): string {
  if (watch.path === watch.registered) return path;
  const prefix = watch.path.length - watch.registered.length;
  return path.slice(prefix);
}

/** All watches of a store. */
export class WatchTable {
  readonly #byPath = new Map<string, Set<Watch>>();

  /** Adds a watch. */
  add(watch: Watch): void {
    const there = this.#byPath.get(watch.path);
    if (there === undefined) this.#byPath.set(watch.path, new Set([watch]));
    else there.add(watch);
  }

  /** Removes a watch. */
  delete(watch: Watch): void {
    const there = this.#byPath.get(watch.path);
    if (there?.delete(watch) && there.size === 0) this.#byPath.delete(watch.path);
  }

  /** True if nobody watches anything. */
  get empty(): boolean {
    return this.#byPath.size === 0;
  }

  /** Tells everybody whom a change concerns. */
  fire(change: Change): void {
    if (this.#byPath.size === 0) return;
    const found: Watch[] = [];
    for (let path = change.path;; path = parentPath(path)) {
      for (const watch of this.#byPath.get(path) ?? []) {
        if (levelsBelow(change.path, path) <= watch.depth) found.push(watch);
      }
      // Nothing is above a special path.
      if (change.exact || path === "/" || !path.startsWith("/")) break;
    }
    if (found.length > 1) found.sort(byOrder);
    const told = new Map<Watch["deliver"], Set<string>>();
    for (const watch of found) {
      if (!watch.permits(change)) continue;
      const below = watch.depth === 1 && change.detail !== undefined && watch.path === change.path;
      const path = below ? `${change.path}/${change.detail}` : eventPath(watch, change.path);
      if (found.length > 1) {
        // Two watches with one token, one below the other: their events would be the same.
        const events = told.get(watch.deliver);
        const event = `${path}\0${watch.token}`;
        if (events?.has(event)) continue;
        if (events !== undefined) events.add(event);
        else told.set(watch.deliver, new Set([event]));
      }
      watch.deliver(path, watch.token);
    }
  }
}
