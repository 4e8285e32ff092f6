/**
 * Sockets that a service manager passes to the program: LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES
 * (sd_listen_fds(3)).
 *
 * @module
 */
import { isListening, prepareInherited } from "./socket.ts";
import { SystemError } from "./system_error.ts";

/** The first descriptor that is passed. */
const FIRST_FD = 3;
/** Most descriptors that are believed. */
const INHERITED_MAX = 4_096;

/** A descriptor that was passed. */
export interface InheritedSocket {
  /** The descriptor. */
  readonly fd: number;
  /** Its FileDescriptorName, "unknown" if there is none. */
  readonly name: string;
}

/** The three variables, as far as they are set. */
export interface ActivationVariables {
  /** The process they are meant for. */
  readonly LISTEN_PID?: string | undefined;
  /** How many descriptors, from 3. */
  readonly LISTEN_FDS?: string | undefined;
  /** Their names, separated by colons. */
  readonly LISTEN_FDNAMES?: string | undefined;
}

/**
 * What the variables say to process `pid`: none if they are not set or meant for another process.
 * Throws EINVAL if they cannot be understood.
 */
export function parseActivation(
  variables: ActivationVariables,
  pid: number,
): InheritedSocket[] {
  const { LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES } = variables;
  if (LISTEN_FDS === undefined || LISTEN_PID === undefined) return [];
  if (numberOf("LISTEN_PID", LISTEN_PID, Number.MAX_SAFE_INTEGER) !== pid) return [];
  const count = numberOf("LISTEN_FDS", LISTEN_FDS, INHERITED_MAX);
  const names = LISTEN_FDNAMES === undefined ? [] : LISTEN_FDNAMES.split(":");
  if (names.length !== 0 && names.length !== count) {
    const text = `it has ${names.length} names for ${count} sockets`;
    throw new SystemError("EINVAL", "use", `LISTEN_FDNAMES=${LISTEN_FDNAMES}`, text);
  }
  return Array.from(
    { length: count },
    (_, i) => ({ fd: FIRST_FD + i, name: names[i] || "unknown" }),
  );
}

function numberOf(name: string, text: string, max: number): number {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : NaN;
  if (value <= max) return value;
  throw new SystemError("EINVAL", "use", `${name}=${text}`, `it is not a number up to ${max}`);
}

/**
 * The listening sockets that were passed to this process, made close-on-exec and non-blocking. The
 * caller removes the variables from the environment. Throws ENOTSOCK for a descriptor that does not listen.
 */
export function inheritedSockets(variables: ActivationVariables, pid: number): InheritedSocket[] {
  const sockets = parseActivation(variables, pid);
  for (const { fd, name } of sockets) {
    if (!isListening(fd)) {
      const text = "it is not a stream socket that listens";
      throw new SystemError("ENOTSOCK", "use", `inherited descriptor ${fd} (${name})`, text);
    }
    prepareInherited(fd);
  }
  return sockets;
}
