/**
 * The answers of xenstored 4.17.7, byte for byte: tests/golden/xenstored-exchanges.txt is played again.
 * The record leaves requests out; what those had set up is made before the section that needs it, and
 * numbers of transactions and generations, which count what was left out, are mapped.
 *
 * @module
 */
import assert from "node:assert/strict";
import {
  decodeMessage,
  encodeMessage,
  OPERATION,
  operationName,
  payloadLength,
  Store,
  textOf,
} from "../../lib/xenstore/mod.ts";
import { bytesOf } from "../../lib/xenstore/mod.ts";
import { drain, Peer } from "./wire.ts";

const RECORD = new URL("../golden/xenstored-exchanges.txt", import.meta.url);
const LINE = /^(sockB?)([<>]) (\w+) req=(\d+) tx=(\d+) '(.*)'(?:\.\.\((\d+)\))?$/;

/** Answers that are accidents (a stale errno) and what names the fault instead, by line of the record. */
const ACCIDENTS: Readonly<Record<string, string>> = {
  "sock< ERROR req=3 tx=0 'ENOENT\\x00'": "EINVAL\0",
  "sock< ERROR req=16 tx=0 'ENOMEM\\x00'": "EINVAL\0",
};

interface Line {
  readonly peer: string;
  readonly sent: boolean;
  readonly type: number;
  readonly requestId: number;
  readonly transactionId: number;
  readonly payload: string;
  readonly text: string;
}

function unescape(text: string): string {
  return text.replace(
    /\\x([0-9a-f]{2})/g,
    (_, hex: string) => String.fromCharCode(parseInt(hex, 16)),
  );
}

/** A payload that the record cut: the last character goes on, and a path ends in NUL. */
function whole(payload: string, length: string | undefined, name: string): string {
  if (length === undefined) return payload;
  const last = payload.slice(-1);
  const filled = payload.padEnd(Number(length), last);
  return name === "READ" && payload.startsWith("/") ? `${filled.slice(0, -1)}\0` : filled;
}

function typeOf(name: string): number {
  const known = Object.entries(OPERATION).find(([each]) => each === name);
  return known === undefined ? Number(name) : known[1];
}

/** Sections of the record by name; lines that are no exchange are left out. */
async function readRecord(): Promise<Map<string, Line[]>> {
  const sections = new Map<string, Line[]>();
  let lines: Line[] = [];
  for (const text of (await Deno.readTextFile(RECORD)).split("\n")) {
    if (text.startsWith("# ")) sections.set(text.slice(2), lines = []);
    const found = LINE.exec(text);
    if (found === null) continue;
    const [, peer = "", direction, name = "", req, tx, payload = "", length] = found;
    lines.push({
      peer,
      sent: direction === ">",
      type: typeOf(name),
      requestId: Number(req),
      transactionId: Number(tx),
      payload: ACCIDENTS[text] ?? whole(unescape(payload), length, name),
      text,
    });
  }
  return sections;
}

class Replay {
  readonly store = new Store();
  readonly peers = new Map<string, Peer>();
  /** Numbers of transactions in the record and here. */
  readonly transactions = new Map<number, number>();
  #waiting: string[] = [];

  peer(name: string): Peer {
    const peer = this.peers.get(name) ?? new Peer(this.store);
    this.peers.set(name, peer);
    return peer;
  }

  play(lines: readonly Line[]): number {
    let compared = 0;
    for (const line of lines) {
      if (line.sent) {
        assert.deepEqual(this.#waiting, [], `before ${line.text}`);
        this.#send(line);
      } else {
        const got = this.#waiting.shift();
        assert.equal(got, this.#show(line.peer, line), line.text);
        compared += 1;
      }
    }
    assert.deepEqual(this.#waiting, []);
    return compared;
  }

  #send(line: Line): void {
    const { session } = this.peer(line.peer);
    const mapped = this.transactions.get(line.transactionId) ?? line.transactionId;
    session.receive(
      encodeMessage({ ...line, transactionId: mapped, payload: bytesOf(line.payload) }),
    );
    const names = [line.peer, ...[...this.peers.keys()].filter((each) => each !== line.peer)];
    for (const name of names) {
      const bytes = drain(this.peer(name).session);
      for (let at = 0; at < bytes.length;) {
        const end = at + 16 + payloadLength(bytes, at);
        const { payload, ...head } = decodeMessage(bytes, at, end);
        const back = [...this.transactions].find(([, here]) => here === head.transactionId);
        const transactionId = back?.[0] ?? head.transactionId;
        this.#waiting.push(this.#show(name, { ...head, transactionId, payload: textOf(payload) }));
        at = end;
      }
    }
  }

  #show(
    peer: string,
    line: Pick<Line, "type" | "requestId" | "transactionId" | "payload">,
  ): string {
    const { type, requestId, transactionId, payload } = line;
    const shown = type === OPERATION.DIRECTORY_PART ? payload.replace(/^\d+\0/, "N\0") : payload;
    return JSON.stringify([peer, operationName(type), requestId, transactionId, shown]);
  }
}

const sections = await readRecord();

function section(name: string): readonly Line[] {
  const lines = sections.get(name);
  assert.ok(lines !== undefined && lines.length > 0, name);
  return lines;
}

for (const name of ["basic", "unknown/invalid ops", "watches"]) {
  Deno.test(`XenstoreSession answers as recorded: ${name}`, () => {
    assert.ok(new Replay().play(section(name)) > 0);
  });
}

Deno.test("XenstoreSession answers as recorded: paths", () => {
  const replay = new Replay();
  replay.peer("sock").ask("WRITE", "/t/x|val");
  assert.equal(replay.play(section("paths")), 20);
});

Deno.test("XenstoreSession answers as recorded: transactions", () => {
  const replay = new Replay();
  replay.peer("sock").ask("WRITE", "/t/w|3");
  assert.ok(replay.play(section("transactions")) > 20);
});

Deno.test("XenstoreSession answers as recorded: watches fired by a commit", () => {
  const replay = new Replay();
  const sock = replay.peer("sock");
  sock.ask("WRITE", "/c/z|1");
  sock.ask("WRITE", "/c/r|1");
  const lines = section("tx watch firing");
  const watching = lines.findIndex(({ text }) => text.includes("tx=25"));
  replay.play(lines.slice(0, watching));
  const committed = sock.start();
  replay.transactions.set(25, committed);
  sock.ask("WRITE", "/c/x|1", committed);
  sock.ask("WRITE", "/c/x|2", committed);
  sock.ask("MKDIR", "/c/k/l|", committed);
  sock.ask("WRITE", "/c/y|1", committed);
  sock.ask("WRITE", "/c/gone|1", committed);
  sock.ask("RM", "/c/gone|", committed);
  sock.ask("RM", "/c/z|", committed);
  assert.deepEqual(replay.peer("sockB").take(), [], "before the commit");
  const aborting = lines.findIndex(({ text }) => text.includes("tx=26"));
  replay.play(lines.slice(watching, aborting));
  replay.transactions.set(26, sock.start());
  replay.transactions.set(27, sock.start());
  sock.ask("WRITE", "/c/x|9", replay.transactions.get(27));
  sock.ask("READ", "/c/r|", replay.transactions.get(27));
  sock.ask("WRITE", "/c/r|2");
  replay.peer("sockB").take();
  replay.play(lines.slice(aborting));
});

Deno.test("XenstoreSession answers as recorded: payload limits", () => {
  const replay = new Replay();
  const sock = replay.peer("sock");
  sock.ask("WRITE", "/c/x|1");
  const lines = section("payload limits");
  const directory = lines.findIndex(({ text }) => text.includes("req=316"));
  replay.play(lines.slice(0, directory));
  // 84 names of 57 characters: what the lengths of the recorded answers tell.
  for (let i = 0; i < 84; i++) {
    sock.ask("MKDIR", `/c/d/n${String(i).padStart(4, "0")}${"x".repeat(52)}|`);
  }
  const listed = lines.slice(directory, lines.findIndex(({ requestId }) => requestId === 1));
  // The record shows the beginning of lists: lengths and rests are compared.
  const cut = listed.filter(({ requestId }) => requestId !== 317 && requestId !== 318);
  assert.ok(replay.play(cut) > 0);
  const lengths = ["0", "4000"].map((offset) => {
    const [reply = ""] = sock.ask("DIRECTORY_PART", `/c/d|${offset}|`);
    return reply.replace(/^\S+ \d+\|/, "").length;
  });
  assert.deepEqual(lengths, [4064 - 4, 877 - 4]);
});

Deno.test("XenstoreSession ends the connection at a payload of 4097 bytes, as recorded", () => {
  const { session } = new Peer(new Store());
  const message = new Uint8Array(16);
  new DataView(message.buffer).setUint32(12, 4097, true);
  assert.throws(() => session.receive(message), /4097 bytes/);
});

Deno.test("XenstoreSession answers as recorded: domain ops", () => {
  assert.ok(new Replay().play(section("domain ops")) > 20);
});
