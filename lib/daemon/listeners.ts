/**
 * Endpoints become listening sockets: unix and TCP ones are opened here, those of a service manager
 * are taken over. Relies on lib/sys for descriptors, on node:dns for host names.
 *
 * @module
 */
import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { BlockError, toBlockError } from "../block/errors.ts";
import type { NbdAddress } from "../nbd/uri.ts";
import { type InheritedSocket, inheritedSockets } from "../sys/activation.ts";
import { closeDescriptor, listenTcp, localAddress } from "../sys/socket.ts";
import { listenUnix } from "../sys/unix_listener.ts";
import { type Endpoint, formatEndpoint, type SystemdEndpoint } from "./endpoint.ts";

/** A socket that listens. */
export interface Listener {
  /** The descriptor: non-blocking, close-on-exec. */
  readonly fd: number;
  /** The endpoint as it would be written, with the real port. */
  readonly label: string;
  /** Where clients connect to. */
  readonly address: NbdAddress;
  /** Closes the descriptor and removes the socket file, if it was made here. Once. */
  close(): void;
}

/** Opens all endpoints, or none: what was opened is closed again if one fails. Throws BlockError. */
export async function openListeners(endpoints: readonly Endpoint[]): Promise<Listener[]> {
  const listeners: Listener[] = [];
  try {
    for (const endpoint of endpoints) listeners.push(...await openEndpoint(endpoint));
  } catch (error) {
    for (const listener of listeners) listener.close();
    throw toBlockError(error);
  }
  return listeners;
}

async function openEndpoint(endpoint: Endpoint): Promise<Listener[]> {
  switch (endpoint.kind) {
    case "unix": {
      const { fd, path, close } = listenUnix(endpoint.path, { mode: endpoint.mode });
      return [{ fd, label: formatEndpoint(endpoint), address: { kind: "unix", path }, close }];
    }
    case "tcp":
      return [listenerOf(listenTcp(await resolve(endpoint.host), endpoint.port))];
    case "systemd":
      return inherited(endpoint);
  }
}

async function resolve(host: string): Promise<string> {
  if (isIP(host) !== 0) return host;
  try {
    return (await lookup(host)).address;
  } catch (error) {
    throw new BlockError("EADDRNOTAVAIL", `Cannot listen on ${host}: the name is not known`, {
      cause: error,
    });
  }
}

function listenerOf(fd: number): Listener {
  const address = localAddress(fd);
  const label = address.kind === "unix"
    ? `unix:${address.path}`
    : formatEndpoint({ kind: "tcp", host: address.host, port: address.port });
  return { fd, label, address, close: () => closeDescriptor(fd) };
}

/** Each inherited socket is taken once in the life of the process. */
let untaken: InheritedSocket[] | null = null;

function inherited(endpoint: SystemdEndpoint): Listener[] {
  untaken ??= inheritedSockets(
    {
      LISTEN_PID: Deno.env.get("LISTEN_PID"),
      LISTEN_FDS: Deno.env.get("LISTEN_FDS"),
      LISTEN_FDNAMES: Deno.env.get("LISTEN_FDNAMES"),
    },
    Deno.pid,
  );
  for (const name of ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]) Deno.env.delete(name);
  const wanted = (socket: InheritedSocket): boolean =>
    endpoint.name === null || socket.name === endpoint.name;
  const taken = untaken.filter(wanted);
  untaken = untaken.filter((socket) => !wanted(socket));
  if (taken.length > 0) return taken.map(({ fd }) => listenerOf(fd));
  const which = endpoint.name === null ? "no socket" : `no socket named "${endpoint.name}"`;
  throw new BlockError(
    "ENOENT",
    `Cannot listen on ${formatEndpoint(endpoint)}: ${which} was passed to this process; ` +
      "start it from a systemd .socket unit, or name another endpoint",
  );
}
