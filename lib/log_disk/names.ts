/**
 * Names of the objects of a volume, all relative to its prefix:
 * - `volume`: what the volume is;
 * - `log/SEQ`: the log, 16 hexadecimal digits, so that names sort as numbers do;
 * - `ckpt/SEQ-NONCE`: a checkpoint of the map that covers the log up to and including SEQ;
 * - `snap/NAME.ID`: a snapshot. No other one ever has the same key, so whoever deletes it late, however
 *   long he was held up, deletes no later one of that name;
 * - `clone/SNAPSHOT/ID`: the clone with that volume id needs the snapshot with the id SNAPSHOT;
 * - `clone/SNAPSHOT/taken`: the taking of that snapshot came to its end;
 * - `clone/SNAPSHOT/deleting-NONCE`: somebody is about to delete that snapshot;
 * - `clone/SNAPSHOT/decided-NONCE`: whether he does.
 *
 * Keys have the characters `a-z 0-9 / _ . -`. In names of snapshots whatever is not `a-z 0-9 -` is
 * written as `_` and two hexadecimal digits for each byte of UTF-8.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import { isId } from "./bytes.ts";
import { SEQ_MAX, SNAPSHOT_NAME_BYTES_MAX } from "./limits.ts";

/** Key of the description of a volume. */
export const VOLUME_KEY = "volume";
/** What keys of log objects begin with. */
export const LOG_PREFIX = "log/";
/** What keys of checkpoints begin with. */
export const CHECKPOINT_PREFIX = "ckpt/";
/** What keys of snapshots begin with. */
export const SNAPSHOT_PREFIX = "snap/";
/** What keys of markers of clones begin with. */
export const CLONE_PREFIX = "clone/";

const SEQ_DIGITS = 16, NONCE_DIGITS = 32;

function seqText(seq: number): string {
  if (!Number.isInteger(seq) || seq < 0 || seq > SEQ_MAX) {
    throw new RangeError(`Cannot name the log object ${seq}: 0 to ${SEQ_MAX} are possible`);
  }
  return seq.toString(16).padStart(SEQ_DIGITS, "0");
}

function seqOf(text: string): number | null {
  if (!/^[0-9a-f]{16}$/.test(text)) return null;
  const seq = parseInt(text, 16);
  return seq <= SEQ_MAX ? seq : null;
}

/** The key of a log object. `seq` is 0 to SEQ_MAX. */
export function logKey(seq: number): string {
  return LOG_PREFIX + seqText(seq);
}

/** The sequence number in the key of a log object; null if it is no such key. */
export function seqOfLogKey(key: string): number | null {
  return key.startsWith(LOG_PREFIX) ? seqOf(key.slice(LOG_PREFIX.length)) : null;
}

/** The key of a checkpoint. `nonce` is that of its writer: 32 hexadecimal digits. */
export function checkpointKey(seq: number, nonce: string): string {
  if (!isId(nonce)) throw new RangeError(`Cannot name a checkpoint: "${nonce}" is no nonce`);
  return `${CHECKPOINT_PREFIX}${seqText(seq)}-${nonce}`;
}

/** What the key of a checkpoint tells; null if it is no such key. */
export function parseCheckpointKey(key: string): { seq: number; nonce: string } | null {
  if (!key.startsWith(CHECKPOINT_PREFIX)) return null;
  const seq = seqOf(key.slice(CHECKPOINT_PREFIX.length, CHECKPOINT_PREFIX.length + SEQ_DIGITS));
  const rest = key.slice(CHECKPOINT_PREFIX.length + SEQ_DIGITS);
  if (seq === null || rest.length !== NONCE_DIGITS + 1 || !rest.startsWith("-")) return null;
  return isId(rest.slice(1)) ? { seq, nonce: rest.slice(1) } : null;
}

function escapeName(name: string): string {
  const bytes = new TextEncoder().encode(name);
  if (bytes.length === 0 || bytes.length > SNAPSHOT_NAME_BYTES_MAX || !name.isWellFormed()) {
    throw new BlockError(
      "EINVAL",
      `Cannot use "${name}" as the name of a snapshot: 1 to ${SNAPSHOT_NAME_BYTES_MAX} bytes of UTF-8 are possible`,
    );
  }
  return [...bytes].map((byte) => {
    const text = String.fromCharCode(byte);
    return /[a-z0-9-]/.test(text) ? text : `_${byte.toString(16).padStart(2, "0")}`;
  }).join("");
}

function unescapeName(text: string): string | null {
  if (!/^(?:[a-z0-9-]|_[0-9a-f]{2})+$/.test(text)) return null;
  const bytes = text.replaceAll(
    /_(..)/g,
    (_, hex: string) => String.fromCharCode(parseInt(hex, 16)),
  );
  try {
    const name = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
      .decode(Uint8Array.from(bytes, (each) => each.charCodeAt(0)));
    // One name has one key: what would be written otherwise is nobody's.
    return escapeName(name) === text ? name : null;
  } catch {
    return null;
  }
}

/** What tells a snapshot from all others. */
export interface SnapshotKey {
  /** Its name, which another one may have had before. */
  readonly name: string;
  /** Its id, 32 hexadecimal digits, which no other one ever has. */
  readonly id: string;
}

/** What keys of the snapshots of a name begin with. Throws EINVAL for a name that cannot be one. */
export function snapshotPrefix(name: string): string {
  return `${SNAPSHOT_PREFIX}${escapeName(name)}.`;
}

/** The key of a snapshot. Throws EINVAL for a name that cannot be one. */
export function snapshotKey({ name, id }: SnapshotKey): string {
  if (!isId(id)) throw new RangeError(`Cannot name a snapshot: "${id}" is no id`);
  return snapshotPrefix(name) + id;
}

/** What the key of a snapshot tells; null if it is no such key. */
export function parseSnapshotKey(key: string): SnapshotKey | null {
  const end = key.indexOf(".");
  if (!key.startsWith(SNAPSHOT_PREFIX) || end < 0) return null;
  const name = unescapeName(key.slice(SNAPSHOT_PREFIX.length, end)), id = key.slice(end + 1);
  return name !== null && isId(id) ? { name, id } : null;
}

/** What the keys of all that concerns the clones of a snapshot begin with. `snapshot` is its id. */
export function clonePrefix(snapshot: string): string {
  if (!isId(snapshot)) throw new RangeError(`Cannot name clones: "${snapshot}" is no id`);
  return `${CLONE_PREFIX}${snapshot}/`;
}

/** The key of the marker that a clone needs a snapshot. `id` is the clone's volume id. */
export function cloneKey(snapshot: string, id: string): string {
  if (!isId(id)) throw new RangeError(`Cannot name a clone: "${id}" is no volume id`);
  return clonePrefix(snapshot) + id;
}

/** True for the key of such a marker. */
export function isCloneKey(key: string): boolean {
  return /^clone\/[0-9a-f]{32}\/[0-9a-f]{32}$/.test(key);
}

/** The key of the marker that a snapshot is complete. */
export function takenKey(snapshot: string): string {
  return `${clonePrefix(snapshot)}taken`;
}

/** The key of the marker of somebody who is about to delete a snapshot. */
export function deletingKey(snapshot: string, nonce: string): string {
  return `${clonePrefix(snapshot)}deleting-${nonce}`;
}

/** The nonce in such a key; null if it is another one. */
export function nonceOfDeletingKey(key: string): string | null {
  return /\/deleting-([0-9a-f]{32})$/.exec(key)?.[1] ?? null;
}

/** The key of the decision whether he who put that marker deletes the snapshot. */
export function decidedKey(snapshot: string, nonce: string): string {
  return `${clonePrefix(snapshot)}decided-${nonce}`;
}
