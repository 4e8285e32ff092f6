/**
 * Answers of xenstored 4.17.7 to requests at the edges of the protocol, byte for byte, without the program
 * itself: tests/golden/xenstored-edges.txt has what it answered to each of EDGES, a line of JSON each.
 *
 * @module
 */
import assert from "node:assert/strict";
import {
  bytesOf,
  encodeMessage,
  OPERATION,
  Store,
  XenstoreSession,
} from "../../lib/xenstore/mod.ts";
import { EDGES } from "../interop/xenstored_edges.ts";
import { MEANT } from "../interop/xenstored_meant.ts";
import { DOMAINS, messages, show } from "../interop/xenstored_pair.ts";
import { drain } from "./wire.ts";

const RECORD = new URL("../golden/xenstored-edges.txt", import.meta.url);

Deno.test("XenstoreSession answers edge cases as recorded", async () => {
  const recorded = (await Deno.readTextFile(RECORD)).trimEnd().split("\n");
  assert.equal(recorded.length, EDGES.length);
  const store = new Store();
  const session = new XenstoreSession(store, { domid: 0 });
  let compared = 0;
  for (const [index, [name, payload, transactionId = 0]] of EDGES.entries()) {
    for (const domid of DOMAINS) store.domains.get(domid);
    const type = typeof name === "number" ? name : OPERATION[name];
    const bytes = bytesOf(payload.replaceAll("|", "\0"));
    session.receive(encodeMessage({ type, requestId: index + 1, transactionId, payload: bytes }));
    const ours = messages(drain(session)).map((each) => show("a", each));
    const theirs: string[] = JSON.parse(recorded[index] ?? "[]");
    if (MEANT.some(([, is]) => is({ peer: "a", type, transactionId, payload }, { theirs, ours }))) {
      continue;
    }
    assert.deepEqual(ours, theirs, `${name} ${JSON.stringify(payload.slice(0, 80))}`);
    compared += 1;
  }
  assert.ok(compared > 200, `${compared} compared`);
});
