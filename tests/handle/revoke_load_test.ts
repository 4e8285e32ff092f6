/** Revocation under load: open files as the gates of a Device whose storage takes its time. @module */
import assert from "node:assert/strict";
import { Device } from "../../lib/block/device.ts";
import { BlockError } from "../../lib/block/errors.ts";
import { makeRequest } from "../../lib/block/request.ts";
import type { Backend } from "../../lib/block/types.ts";
import type { OpenFile } from "../../lib/handle/open_file.ts";
import { ManualClock, MemoryLog, SeededRandom } from "../support/context.ts";
import { openActive, tableFixture, turn } from "./fixtures.ts";

const ROUNDS = 1_000;
const DEPTH = 32;
const BLOCK = 512;
const CLIENT_BYTES = 64 * BLOCK;

/** Storage whose operations end when told, in any order. The upper half is that of the other client. */
class ParkedStorage implements Backend {
  readonly geometry = {
    size: 2 * CLIENT_BYTES,
    minimum: 1,
    preferred: 4096,
    maximum: CLIENT_BYTES,
    readOnly: false,
  };
  readonly capabilities = { synchronous: false, fua: true };
  /** Operations that have reached it, by client. */
  readonly begun: [number, number] = [0, 0];
  #parked: { client: 0 | 1; end: (error?: BlockError) => void }[] = [];

  read(into: Uint8Array, offset: number): Promise<void> {
    return this.#park(offset).then(() => void into.fill(7));
  }

  write(_from: Uint8Array, offset: number): Promise<void> {
    return this.#park(offset);
  }

  flush(): void {}

  /** Operations of a client that are under way. */
  inside(client: 0 | 1): number {
    return this.#parked.filter((each) => each.client === client).length;
  }

  /** Ends one operation; some fail. */
  endOne(random: SeededRandom, mayFail = true): void {
    const [parked] = this.#parked.splice(random.below(this.#parked.length), 1);
    const fails = mayFail && random.below(8) === 0;
    parked?.end(fails ? new BlockError("EIO", "Cannot do it: a test") : undefined);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }

  #park(offset: number): Promise<void> {
    const client = offset < CLIENT_BYTES ? 0 : 1;
    this.begun[client] += 1;
    return new Promise((resolve, reject) => {
      const end = (error?: BlockError): void => error === undefined ? resolve() : reject(error);
      this.#parked.push({ client, end });
    });
  }
}

/** What became of the requests of one client. */
interface Tally {
  submitted: number;
  refused: number;
  done: number;
  failed: number;
}

/** A client: one open file, its half of the storage. */
class Client {
  readonly tally: Tally = { submitted: 0, refused: 0, done: 0, failed: 0 };
  readonly #device: Device;
  readonly #file: OpenFile;
  readonly #base: number;

  constructor(device: Device, file: OpenFile, base: number) {
    this.#device = device;
    this.#file = file;
    this.#base = base;
  }

  /** Requests that are neither refused nor answered. */
  get inFlight(): number {
    const { submitted, refused, done, failed } = this.tally;
    return submitted - refused - done - failed;
  }

  submit(random: SeededRandom): void {
    const data = new Uint8Array(BLOCK);
    const offset = this.#base + random.below(CLIENT_BYTES / BLOCK) * BLOCK;
    const operation = random.below(2) === 0 ? "read" : "write";
    const request = makeRequest(operation, offset, BLOCK, { data, gate: this.#file });
    this.tally.submitted += 1;
    try {
      const outcome = this.#device.submit(request);
      assert.ok(outcome !== undefined, "the storage takes its time");
      outcome.then(() => this.tally.done += 1, (error: unknown) => {
        assert.ok(error instanceof BlockError && error.errno === "EIO");
        this.tally.failed += 1;
      });
    } catch (error) {
      assert.ok(error instanceof BlockError && error.errno === "ENODEV");
      this.tally.refused += 1;
    }
  }
}

Deno.test("OpenFile.revoke() under load lets nothing in and everything out", async () => {
  const storage = new ParkedStorage();
  const clock = new ManualClock(), log = new MemoryLog();
  await using device = new Device(storage, { name: "parked", clock, log });
  const { table } = tableFixture();
  const random = new SeededRandom(11);
  const bystander = openActive(table);
  const other = new Client(device, bystander, CLIENT_BYTES);
  let insideAtRevoke = 0;
  for (let round = 0; round < ROUNDS; round += 1) {
    const ran: string[] = [];
    const file = openActive(table, { release: () => void ran.push("release") });
    file.onexit.add({ name: "action", run: () => void ran.push("action") });
    const client = new Client(device, file, 0);
    for (let step = random.below(3 * DEPTH); step >= 0; step -= 1) {
      if (client.inFlight < DEPTH) client.submit(random);
      if (other.inFlight < DEPTH) other.submit(random);
      if (random.below(2) === 0) storage.endOne(random);
      if (random.below(8) === 0) await Promise.resolve();
    }
    assert.equal(client.tally.refused, 0);
    const [begun] = storage.begun;
    file.revoke();
    insideAtRevoke += storage.inside(0);
    const otherDone = other.tally.done;
    let drained = false;
    const draining = file.drain().then(() => {
      assert.equal(storage.inside(0), 0, `round ${round}: drained with operations inside`);
      drained = true;
    });
    while (storage.inside(0) > 0) {
      assert.ok(!drained && ran.length === 0, `round ${round}`);
      client.submit(random);
      if (other.inFlight < DEPTH) other.submit(random);
      storage.endOne(random);
      await Promise.resolve();
    }
    await draining;
    await file.released;
    assert.equal(storage.begun[0], begun, `round ${round}: an operation has entered`);
    assert.equal(client.inFlight, 0, `round ${round}: an operation was lost`);
    assert.deepEqual(ran, ["action", "release"], `round ${round}`);
    assert.deepEqual([file.active, other.tally.refused], [0, 0], `round ${round}`);
    assert.ok(other.tally.done >= otherDone);
  }
  assert.ok(insideAtRevoke > ROUNDS, "there was load");
  while (storage.inside(1) > 0) storage.endOne(random);
  await bystander.close();
  await turn();
  assert.equal(other.inFlight, 0);
  assert.equal(device.inFlight, 0);
  assert.deepEqual(log.lines, []);
});

Deno.test("OpenFile.revoke() refuses a request that waits for a resize", async () => {
  const storage = new ParkedStorage();
  const clock = new ManualClock(), log = new MemoryLog();
  await using device = new Device(storage, { name: "parked", clock, log });
  const { table } = tableFixture();
  const file = openActive(table);
  const data = new Uint8Array(BLOCK);
  const request = makeRequest("read", 0, BLOCK, { data, gate: file });
  const inside = device.submit(request);
  const resizing = assert.rejects(device.resize(BLOCK), { errno: "EOPNOTSUPP" });
  const waiting = Promise.resolve(device.submit({ ...request }));
  const refused = assert.rejects(waiting, { errno: "ENODEV" });
  file.revoke();
  assert.equal(file.active, 1);
  while (storage.inside(0) > 0) storage.endOne(new SeededRandom(1), false);
  await inside;
  await resizing;
  await refused;
  await file.released;
});
