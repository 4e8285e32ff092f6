/**
 * The XenStore service of this project alone, on the socket that the only argument names, until a
 * signal: what the benchmark measures.
 *
 * @module
 */
import { startXenstoreService } from "../lib/xenstore/service.ts";

const [path = ""] = Deno.args;
await using service = await startXenstoreService({
  sockets: [{ path, mode: 0o600 }],
  xenbus: [],
  domains: new Map(),
  opened: () => {},
  closed: () => {},
  control: () => Promise.resolve("OK"),
  onFailure: (reason) => {
    throw new Error(reason);
  },
});
const ended = Promise.withResolvers<void>();
Deno.addSignalListener("SIGTERM", ended.resolve);
await service.client.write("/bench/ready", "1");
await ended.promise;
