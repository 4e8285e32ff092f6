/**
 * Where a server listens that was told nothing: a socket only this user can reach.
 *
 * @module
 */
import { exists } from "@std/fs";
import { join } from "node:path";
import type { UnixEndpoint } from "../lib/daemon/endpoint.ts";
import { UNIX_PATH_BYTES_MAX } from "../lib/daemon/limits.ts";

/** A place for a socket. */
export interface SocketPlace {
  /** The endpoint. */
  readonly endpoint: UnixEndpoint;
  /** Removes what was made for it. */
  remove(): Promise<void>;
}

function endpointAt(folder: string, name: string): UnixEndpoint {
  return { kind: "unix", path: join(folder, name), mode: 0o600 };
}

/** A socket in $XDG_RUNTIME_DIR, or in a fresh private folder below $TMPDIR. */
export async function defaultSocket(
  env: (name: string) => string | undefined,
): Promise<SocketPlace> {
  const runtime = env("XDG_RUNTIME_DIR") ?? "";
  const endpoint = endpointAt(runtime, `dmu-${Deno.pid}.sock`);
  const fits = new TextEncoder().encode(endpoint.path).length <= UNIX_PATH_BYTES_MAX;
  if (runtime !== "" && fits && await exists(runtime, { isDirectory: true })) {
    return { endpoint, remove: () => Promise.resolve() };
  }
  const folder = await Deno.makeTempDir({ prefix: "dmu-" });
  return {
    endpoint: endpointAt(folder, "nbd.sock"),
    remove: () => Deno.remove(folder, { recursive: true }),
  };
}
