/** Reads of a file under the blocking driver: they are sent from its pages, without memory in between. @module */
import assert from "node:assert/strict";
import { join } from "node:path";
import { file } from "../../backends/file.ts";
import { Device } from "../../lib/block/device.ts";
import { BufferPool } from "../../lib/block/pool.ts";
import type { Backend } from "../../lib/block/types.ts";
import { LOCATE_BYTES_MIN } from "../../lib/nbd/limits.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import { VectorPool } from "../../lib/sys/io_vector.ts";
import { assertSame, compact, joined } from "../nbd/fixtures.ts";
import { readReplies } from "../nbd/reply_reader.ts";
import { FLUSH, READ, WRITE } from "../nbd/transmission_messages.ts";
import { ManualClock, MemoryLog, SeededRandom, testContext } from "../support/context.ts";
import { SystemError } from "../../lib/sys/system_error.ts";
import { withTempDir } from "../support/tools.ts";
import { type Bed, type Client, withLoop } from "./loop_bed.ts";

const KIB = 1024, MIB = 1024 * KIB;
const PAGE = 4096;

interface FileBed extends Bed {
  readonly path: string;
  readonly content: Uint8Array<ArrayBuffer>;
  readonly clock: ManualClock;
  /** Reads that the storage has copied. */
  readonly copied: () => number;
}

/**
 * A loop over a file of 2 MiB; "broken": what is not in its mapping cannot be read; "copied": by a driver that
 * sends nothing but memory of its own.
 */
function withFile(
  fn: (bed: FileBed) => void | Promise<void>,
  disk: "good" | "broken" | "copied" = "good",
): Promise<void> {
  return withTempDir(async (folder) => {
    const path = join(folder, "disk.img");
    const content = new Uint8Array(2 * MIB);
    new SeededRandom(5).fill(content);
    Deno.writeFileSync(path, content);
    const options = { path, direct: false, discard: true, lock: true };
    const context = testContext({ files: systemFiles, mayBlock: true });
    const { backend } = await file.open(options, context);
    let copies = 0;
    const { memoryMap = null } = backend;
    if (disk === "broken" && memoryMap !== null) {
      const { copy } = memoryMap;
      memoryMap.copy = (address, length) => {
        if (address < memoryMap.address + MIB) return copy.call(memoryMap, address, length);
        throw new SystemError("EIO", "read", path, "the disk is broken");
      };
    }
    const counting: Backend = {
      ...backend,
      get geometry() {
        return backend.geometry;
      },
      read: (into, offset) => {
        copies += 1;
        return backend.read(into, offset);
      },
    };
    const clock = new ManualClock();
    const device = new Device(counting, {
      name: "disk",
      clock,
      log: new MemoryLog(),
      pool: new BufferPool({ poison: true }),
    });
    await withLoop(
      (bed) => fn({ ...bed, path, content, clock, copied: () => copies }),
      disk === "copied" ? { device } : { device, vectors: new VectorPool() },
    );
    assert.equal(device.pool.takenCount, 0);
  });
}

interface Read {
  readonly offset: number;
  readonly length: number;
}

/** Turns until `wanted` bytes have come, which are taken `most` at a time. */
function receive({ loop }: FileBed, client: Client, wanted: number, most: number): void {
  let got = 0;
  for (let turns = 0; got < wanted; turns++) {
    assert.ok(turns < 100_000, `only ${got} of ${wanted} bytes came`);
    loop.turn();
    got += client.take(Math.min(most, wanted - got));
  }
}

/** What a client gets for these reads, by their order, all of them under way at once. */
function readAll(bed: FileBed, reads: readonly Read[], most = 50_000): void {
  const { client } = bed.connect();
  client.send(
    joined(reads.map(({ offset, length }, cookie) => compact(READ, cookie, offset, length))),
  );
  receive(bed, client, reads.reduce((sum, { length }) => sum + 16 + length, 0), most);
  const answers = readReplies(client.bytes, "simple", (cookie) => ({
    read: true,
    offset: 0n,
    length: BigInt(reads[Number(cookie)]?.length ?? 0),
  }));
  assert.equal(answers.size, reads.length);
  for (const [cookie, { error, data }] of answers) {
    const { offset, length } = reads[Number(cookie)] ?? { offset: 0, length: 0 };
    assert.equal(error, 0);
    assertSame(data ?? new Uint8Array(0), bed.content.subarray(offset, offset + length));
  }
}

function someReads(seed: number, count: number, bytes: number): Read[] {
  const random = new SeededRandom(seed);
  return Array.from({ length: count }, (_, index) => {
    const length = index % 2 === 0
      ? PAGE
      : LOCATE_BYTES_MIN + random.uint32() % (30 * KIB - LOCATE_BYTES_MIN);
    return { offset: random.uint32() % (bytes - length), length };
  });
}

Deno.test("SessionLoop sends reads from the pages of a file, also if a client takes little at a time", () =>
  withFile((bed) => {
    for (const [seed, most] of [[1, 1_000], [2, 50_000], [3, MIB]] as const) {
      readAll(bed, someReads(seed, 250, bed.content.length), most);
    }
    assert.equal(bed.copied(), 0);
    assert.equal(bed.device.statistics.read.snapshot().count, 750);
  }));

Deno.test("NbdServerSession gives all requests and all outputs one shape each", () =>
  withFile((bed) => {
    const { device } = bed;
    const requests = new Set<string>(), states = new Set<boolean | undefined>();
    const submit = device.submit.bind(device);
    device.submit = (request) => {
      requests.add(Object.keys(request).join());
      if (request.operation === "read") states.add(request.located);
      return submit(request);
    };
    const outputs = new Set<string>(), kinds = new Set<boolean>();
    const { client, session } = bed.connect();
    const takeOutput = session.takeOutput.bind(session);
    session.takeOutput = () => {
      const output = takeOutput();
      if (output !== null) {
        outputs.add(Object.keys(output).sort().join());
        kinds.add(output.vector === null);
      }
      return output;
    };
    const short = LOCATE_BYTES_MIN / 2;
    const messages = [
      compact(READ, 1, 0, PAGE),
      compact(READ, 2, 0, short),
      joined([compact(WRITE, 3, 0, PAGE), bed.content.subarray(0, PAGE)]),
      compact(FLUSH, 4, 0, 0),
    ];
    for (const [index, bytes] of [16 + PAGE, 16 + short, 16, 16].entries()) {
      client.send(messages[index] ?? new Uint8Array(0));
      receive(bed, client, bytes, MIB);
    }
    assert.deepEqual([...requests].length, 1, [...requests].join(" and "));
    assert.deepEqual([...outputs].length, 1, [...outputs].join(" and "));
    assert.equal(states.size, 2, "reads of both kinds were seen");
    assert.equal(kinds.size, 2, "outputs of both kinds were seen");
  }));

for (const disk of ["good", "copied"] as const) {
  Deno.test(`SessionLoop sends long reads of a file wherever they begin and end (${disk})`, () =>
    withFile((bed) => {
      const random = new SeededRandom(3), { length: size } = bed.content;
      const reads = Array.from({ length: 120 }, (_, index) => {
        const most = index % 3 === 0 ? 64 * KIB : index % 3 === 1 ? MIB : 9 * KIB;
        const length = LOCATE_BYTES_MIN + random.uint32() % most;
        return { offset: random.uint32() % (size - length), length };
      });
      reads.push({ offset: 0, length: MIB }, { offset: 1, length: MIB }, {
        offset: 0,
        length: size,
      });
      readAll(bed, reads, 100_000);
      assert.equal(bed.copied(), disk === "good" ? 0 : reads.length);
      assert.equal(bed.device.statistics.read.snapshot().count, reads.length);
      // The file is cut short.
      Deno.truncateSync(bed.path, MIB + 100);
      bed.content.fill(0, MIB + 100);
      readAll(bed, [{ offset: MIB - 1000, length: 300 * KIB }, {
        offset: 1.5 * MIB,
        length: 400 * KIB,
      }]);
    }, disk));
}

Deno.test("SessionLoop copies reads that are short, and those that somebody looks at", () =>
  withFile((bed) => {
    readAll(bed, [{ offset: 3, length: LOCATE_BYTES_MIN - 1 }]);
    assert.equal(bed.copied(), 1);
    const seen: number[] = [];
    bed.device.tap = {
      submitted: () => 1,
      completed: (_, { data }) => {
        seen.push(data.length);
      },
    };
    readAll(bed, [{ offset: 8, length: PAGE }]);
    bed.device.tap = null;
    assert.deepEqual(seen, [PAGE]);
    assert.equal(bed.copied(), 2);
  }));

Deno.test("SessionLoop gives zeroes for pages that a file has lost", () =>
  withFile((bed) => {
    readAll(bed, [{ offset: 0, length: PAGE }]);
    const end = MIB + 100;
    Deno.truncateSync(bed.path, end);
    bed.content.fill(0, end);
    readAll(bed, [
      { offset: 0, length: PAGE },
      { offset: MIB - PAGE, length: 3 * PAGE },
      { offset: MIB + 64 * KIB, length: 20 * KIB },
      ...someReads(9, 60, bed.content.length),
    ]);
    assert.equal(bed.copied(), 0);
  }));

Deno.test("SessionLoop reads what was written before, and answers all else beside reads", () =>
  withFile((bed) => {
    const { client } = bed.connect();
    const random = new SeededRandom(77);
    for (let round = 0; round < 40; round++) {
      const data = new Uint8Array(PAGE);
      random.fill(data);
      const offset = random.uint32() % (bed.content.length - PAGE);
      client.send(joined([compact(WRITE, 1, offset, PAGE), data]));
      receive(bed, client, 16, MIB);
      bed.content.set(data, offset);
      client.received.length = 0;
      // A reply without data between two with them, an error too.
      client.send(joined([
        compact(READ, 2, offset, PAGE),
        compact(FLUSH, 3, 0, 0),
        compact(READ, 4, bed.content.length, PAGE),
        compact(READ, 5, offset + 10, PAGE - 20),
      ]));
      receive(bed, client, 4 * 16 + PAGE + PAGE - 20, 1_500);
      const answers = readReplies(client.bytes, "simple", (cookie) => ({
        read: cookie === 2n || cookie === 5n,
        offset: 0n,
        length: BigInt(cookie === 2n ? PAGE : PAGE - 20),
      }));
      client.received.length = 0;
      assertSame(answers.get(2n)?.data ?? new Uint8Array(0), data);
      assertSame(answers.get(5n)?.data ?? new Uint8Array(0), data.subarray(10, PAGE - 10));
      assert.equal(answers.get(3n)?.error, 0);
      assert.equal(answers.get(4n)?.error, 22);
    }
  }));

Deno.test("SessionLoop reads ahead by copying while data come slowly, and goes back", () =>
  withFile((bed) => {
    const { device } = bed;
    const reads = someReads(4, 20, bed.content.length);
    for (let count = 0; count < 3; count++) device.noteSent(5_000, 100 * KIB);
    assert.ok(device.wantsAhead);
    readAll(bed, reads);
    assert.equal(bed.copied(), reads.length);
    for (let count = 0; device.wantsAhead; count++) {
      assert.ok(count < 2_000);
      device.noteSent(30, 100 * KIB);
    }
    readAll(bed, reads);
    assert.equal(bed.copied(), reads.length);
  }));

Deno.test("SessionLoop answers with an error what cannot be read when it is sent, and goes on", () =>
  withFile((bed) => {
    // The file is too short for its mapping, and reading from it fails, as on a disk that is broken there.
    Deno.truncateSync(bed.path, MIB);
    const { client } = bed.connect();
    const places = [MIB - PAGE, MIB, 0, MIB + 5 * PAGE, PAGE];
    client.send(joined(places.map((offset, cookie) => compact(READ, cookie, offset, PAGE))));
    receive(bed, client, places.length * 16 + 3 * PAGE, MIB);
    const answers = readReplies(client.bytes, "simple", (cookie) => ({
      read: true,
      offset: 0n,
      length: BigInt(places[Number(cookie)] ?? 0) >= MIB ? 0n : BigInt(PAGE),
    }));
    for (const [cookie, { error, data }] of answers) {
      const offset = places[Number(cookie)] ?? 0;
      assert.equal(error, offset >= MIB ? 5 : 0);
      if (offset < MIB) {
        assertSame(data ?? new Uint8Array(0), bed.content.subarray(offset, offset + PAGE));
      }
    }
    assert.equal(answers.size, places.length);
  }, "broken"));

Deno.test("MemoryMap has what is in memory, and looks again for what was not", () =>
  withTempDir((folder) => {
    const path = join(folder, "sparse.img");
    Deno.writeFileSync(path, new Uint8Array(0));
    Deno.truncateSync(path, 4 * MIB);
    const opened = systemFiles.open(path, { readOnly: false, direct: false, lock: false });
    const map = opened.map?.() ?? null;
    try {
      assert.ok(map !== null);
      // Nothing was read of the second half yet; of the first half all was written.
      opened.write(new Uint8Array(2 * MIB), 0);
      assert.ok(map.has(0, 2 * MIB));
      assert.ok(!map.has(2 * MIB, PAGE) && !map.has(2 * MIB - 1, 2));
      assert.ok(!map.has(4 * MIB - 1, 2), "behind its end there is nothing");
      opened.write(new Uint8Array(2 * MIB), 2 * MIB);
      let looks = 1;
      while (!map.has(2 * MIB, PAGE)) assert.ok(++looks < 200, "it is looked at again");
      assert.ok(map.has(0, 4 * MIB) && looks > 10);
    } finally {
      map?.release();
      opened.close();
    }
  }));

function mappings(path: string): number {
  return Deno.readTextFileSync("/proc/self/maps").split("\n").filter((line) => line.endsWith(path))
    .length;
}

Deno.test("SessionLoop keeps the pages until a client has its replies, or is gone", async () => {
  let path = "";
  await withFile(async (bed) => {
    path = bed.path;
    const { client, id } = bed.connect();
    const { id: other, client: silent } = bed.connect();
    for (const each of [client, silent]) {
      for (let cookie = 0; cookie < 100; cookie++) {
        each.send(compact(READ, cookie, cookie, 28 * KIB));
      }
    }
    for (let turns = 0; turns < 5; turns++) bed.loop.turn();
    assert.equal(mappings(path), 1);
    await bed.device[Symbol.asyncDispose]();
    assert.equal(mappings(path), 1, "replies are still to be sent");
    bed.loop.cut(other, new Error("it is enough"));
    assert.equal(mappings(path), 1);
    bed.loop.cut(id, new Error("it is enough"));
    assert.equal(mappings(path), 0);
  });
  assert.notEqual(path, "");
});
