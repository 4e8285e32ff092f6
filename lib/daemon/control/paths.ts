/**
 * Where things are in the tree that shows and steers a daemon, for the daemon and for its clients:
 * docs/control-plane.md has the whole tree. States are those of XenBus.
 *
 * @module
 */
import type { TargetState } from "../targets.ts";

/** Facts about the daemon. */
export const DAEMON_PATH = "/dmu/daemon";
/** Its targets. */
export const TARGETS_PATH = "/dmu/target";
/** Its open files. */
export const FILES_PATH = "/dmu/file";

/** Dirty-region logs of the kernel's mirrors. */
export const LOGS_PATH = "/dmu/log";

/** Values of a target's `state`. */
export const XENBUS_STATE = {
  /** Somebody wishes for it. */
  INITIALISING: "1",
  /** It is there and does not answer. */
  INIT_WAIT: "2",
  /** Clients can connect. */
  CONNECTED: "4",
  /** It is going away. */
  CLOSING: "5",
  /** It is gone. */
  CLOSED: "6",
} as const;

const STATES: Readonly<Record<TargetState, string>> = {
  "init-wait": XENBUS_STATE.INIT_WAIT,
  connected: XENBUS_STATE.CONNECTED,
  closing: XENBUS_STATE.CLOSING,
  closed: XENBUS_STATE.CLOSED,
};

/** The value of `state` for where a target is in its life. */
export function xenbusState(state: TargetState): string {
  return STATES[state];
}

/**
 * The name of a target's node: its own, but with "@" for each dot, since names of nodes have no dots
 * and names of targets no "@".
 */
export function targetNodeName(target: string): string {
  return target.replaceAll(".", "@");
}

/** The target that a node stands for. */
export function targetOfNodeName(node: string): string {
  return node.replaceAll("@", ".");
}

/** The name of a bitmap's node, below `bitmap` of its target: dots as in targets. */
export function bitmapNodeName(bitmap: string): string {
  return targetNodeName(bitmap);
}

/** The bitmap that such a node stands for. */
export function bitmapOfNodeName(node: string): string {
  return targetOfNodeName(node);
}

/** The node of a target. */
export function targetPath(target: string): string {
  return `${TARGETS_PATH}/${targetNodeName(target)}`;
}

/** The node of an open file. */
export function filePath(minor: number): string {
  return `${FILES_PATH}/${minor}`;
}

/**
 * The node of a log. A uuid may have any character: those that a node's name cannot have, and "@", are
 * written as "@" and two digits for each byte of their UTF-8.
 */
export function logPath(uuid: string): string {
  const name = uuid.replaceAll(/[^A-Za-z0-9_-]/gu, (character) => {
    const bytes = [...new TextEncoder().encode(character)];
    return bytes.map((byte) => `@${byte.toString(16).padStart(2, "0")}`).join("");
  });
  return `${LOGS_PATH}/${name}`;
}
