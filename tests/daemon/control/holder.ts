/**
 * A client of a control socket in a process of its own, for tests that kill it: binds an ephemeral
 * target and a hook to its connection, holds a watch and a transaction, says so, and waits.
 *
 * @module
 */
import { XenstoreClient } from "../../../lib/xenstore/mod.ts";
import { ask, untilState, wish } from "../../support/control.ts";

const [socket = "", name = ""] = Deno.args;
const client = await XenstoreClient.connectUnix(socket);
const { minor } = await ask(client, { verb: "self" });
await wish(client, name, { backend: "memory:1M", onexit: String(minor) });
await untilState(client, name, "4");
const { handle } = await ask(client, { verb: "onexit-add", minor, action: "hook note" });
const events = await client.watch("/dmu/target");
await client.request(6, "\0");
Deno.stdout.writeSync(new TextEncoder().encode(`${JSON.stringify({ minor, handle })}\n`));
for await (const _ of events);
