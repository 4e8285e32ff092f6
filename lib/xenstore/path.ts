/**
 * Paths of nodes: which are valid, and what a relative one means to a caller. Pure.
 *
 * @module
 */
import { XenstoreError } from "./errors.ts";
import {
  ABSOLUTE_PATH_LENGTH_MAX,
  KEPT_TEXT_LENGTH_MAX,
  PATH_LENGTH_MAX,
  PATHS_KEPT_MAX,
} from "./limits.ts";

const VALID = /^(?:\/|(?:\/[A-Za-z0-9\-_@]+)+)$/;
/** As scanf(3) reads "/local/domain/%5u/", which takes a sign for one of the five characters. */
const DOMAIN_PREFIX = /^\/local\/domain\/(?:\d{1,5}|-\d{1,4})\//;

/** The home of a domain: what its relative paths begin from. */
export function domainPath(domid: number): string {
  return `/local/domain/${domid}`;
}

/** Names of paths that were found valid lately. */
const NAMES = new Map<string, readonly string[]>();

/** The names in the path of a node, from above; none for the root. The path is valid. */
export function namesOf(path: string): readonly string[] {
  return NAMES.get(path) ?? split(path);
}

function split(path: string): readonly string[] {
  return path.length === 1 ? [] : path.slice(1).split("/");
}

/** True for a path that a node may have. */
export function isNodePath(path: string): boolean {
  if (NAMES.has(path)) return true;
  if (!VALID.test(path)) return false;
  if (path.length <= KEPT_TEXT_LENGTH_MAX) {
    if (NAMES.size >= PATHS_KEPT_MAX) NAMES.clear();
    NAMES.set(path, split(path));
    return true;
  }
  if (path.length <= PATH_LENGTH_MAX) return true;
  const prefix = DOMAIN_PREFIX.exec(path)?.[0].length ?? 0;
  return path.length - prefix <= PATH_LENGTH_MAX && path.length <= ABSOLUTE_PATH_LENGTH_MAX;
}

/** True for an event path that is no node. */
export function isSpecialPath(path: string): boolean {
  return path.startsWith("@");
}

/** What a caller's path means, valid or not. */
function canonical(path: string, domid: number): string {
  return path.startsWith("/") || isSpecialPath(path) ? path : `${domainPath(domid)}/${path}`;
}

/** What is looked for among the watches of a caller: a path that cannot be is just not watched. */
export function unwatchPath(path: string, domid: number): string {
  return canonical(path, domid);
}

/** The whole path of what a caller wants to watch. Throws EINVAL for one that cannot be. */
export function watchPath(path: string, domid: number): string {
  if (!isSpecialPath(path)) return absolutePath(path, domid);
  if (path.length <= PATH_LENGTH_MAX) return path;
  throw new XenstoreError("EINVAL", `Cannot watch path ${quoted(path)}: it is too long`);
}

/** The whole path of a node that a caller named. Throws EINVAL if no node can have it. */
export function absolutePath(path: string, domid: number): string {
  const whole = canonical(path, domid);
  if (isNodePath(whole)) return whole;
  throw new XenstoreError("EINVAL", `Cannot use path ${quoted(path)}: it is not valid`);
}

/** The path of the parent, "/" for a node below the root and for the root. */
export function parentPath(path: string): string {
  return path.slice(0, Math.max(1, path.lastIndexOf("/")));
}

/** The last name of a path. */
export function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** The path of a child. */
export function childPath(path: string, name: string): string {
  return path === "/" ? `/${name}` : `${path}/${name}`;
}

/** A path for a message: short enough, no control characters. */
export function quoted(path: string): string {
  const length = 80;
  return JSON.stringify(path.length > length ? `${path.slice(0, length)}…` : path);
}
