/**
 * Permissions of nodes: a list whose first entry names the owner and what everybody may who is not
 * listed, and whose further entries name domains. Pure.
 *
 * @module
 */

/** Right to read. */
export const MAY_READ = 1;
/** Right to write, which is also to create and to remove. */
export const MAY_WRITE = 2;
/** Rights of the owner, which include changing permissions. */
export const MAY_OWN = 4;
/** All rights. */
export const MAY_ALL: number = MAY_READ | MAY_WRITE | MAY_OWN;

/** One entry: a domain and MAY_READ, MAY_WRITE, both or 0. */
export interface Permission {
  /** The domain. Numbers that no domain can have are without effect. */
  readonly domid: number;
  /** MAY_READ, MAY_WRITE, both or 0. */
  readonly rights: number;
  /** Kept and shown, but without effect: the domain was not known, or is no more. */
  readonly ignored?: true;
}

/** The permissions of a node, at least one entry. Never changed in place. */
export type Permissions = readonly Permission[];

/** Owner is domain 0, nobody else may anything: what a fresh store has. */
export const PRIVATE: Permissions = Object.freeze([Object.freeze({ domid: 0, rights: 0 })]);

const LETTERS = "nrwb";
const NUMBER = /^[ \t-\r]*(?:\+|(-))?(?:(0[xX][0-9a-fA-F]+)|0([0-7]+)|(0|[1-9]\d*))$/;

/** Who asks, as far as permissions go. */
export interface Identity {
  /** The domain. */
  readonly domid: number;
  /** Domain 0 has all rights everywhere. */
  readonly privileged: boolean;
  /** The domain for which this one acts (SET_TARGET), or null. */
  readonly target: number | null;
}

/** Reads "r5" and the like; null if it is none. The number is one of strtol(3) with base 0. */
export function parsePermission(text: string): Permission | null {
  const rights = text === "" ? -1 : LETTERS.indexOf(text.charAt(0));
  const [, minus, hex, octal, decimal] = NUMBER.exec(text.slice(1)) ?? [];
  const digits = hex ?? (octal === undefined ? decimal : `0o${octal}`);
  if (rights < 0 || digits === undefined) return null;
  return { domid: Number(digits) * (minus === undefined ? 1 : -1) | 0, rights };
}

/** "r5" and the like. */
export function formatPermission({ domid, rights }: Permission): string {
  return `${LETTERS[rights & (MAY_READ | MAY_WRITE)] ?? "n"}${domid}`;
}

/** The domain that owns a node. */
export function ownerOf(permissions: Permissions): number {
  return permissions[0]?.domid ?? 0;
}

/** The rights that a caller has. */
export function rightsOf(
  { domid, privileged, target }: Identity,
  permissions: Permissions,
): number {
  const owner = ownerOf(permissions);
  if (privileged || owner === domid || owner === target) return MAY_ALL;
  for (let at = 1; at < permissions.length; at++) {
    const entry = permissions[at];
    if (entry === undefined || entry.ignored === true) continue;
    if (entry.domid === domid || entry.domid === target) {
      return entry.rights;
    }
  }
  return permissions[0]?.rights ?? 0;
}

/** The same list, in which entries for some domains have no effect. */
export function ignoring(
  permissions: Permissions,
  ignored: (domid: number) => boolean,
): Permissions {
  return permissions.map((each, at) =>
    at > 0 && ignored(each.domid) ? { ...each, ignored: true } : each
  );
}

/** A list without a domain; what the domain owned is owned by domain 0. */
export function withoutDomain(permissions: Permissions, domid: number): Permissions {
  const [first = { domid: 0, rights: 0 }, ...others] = permissions;
  const owner = first.domid === domid ? 0 : first.domid;
  return [{ domid: owner, rights: first.rights }, ...others.filter((each) => each.domid !== domid)];
}

/** The permissions of a node that a caller creates below one with these. */
export function inherit(parent: Permissions, creator: Identity): Permissions {
  const first = parent[0];
  if (creator.privileged || first === undefined || first.domid === creator.domid) return parent;
  return [{ domid: creator.domid, rights: first.rights }, ...parent.slice(1)];
}
