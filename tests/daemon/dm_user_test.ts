/**
 * Tests of lib/daemon/{dm_user,dm_user_config}.ts and of what the daemon makes of them: how devices are
 * named, what is said where one cannot be opened, what happens when channels end. Where the kernel
 * lets tests mount, the devices are those of a simulation in this process.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { defaultRegistry } from "../../backends/mod.ts";
import type { Clock } from "../../lib/block/context.ts";
import { Device } from "../../lib/block/device.ts";
import { BlockError } from "../../lib/block/errors.ts";
import { OPEN_GATE } from "../../lib/block/request.ts";
import { parseSpec } from "../../lib/block/spec.ts";
import { UsageError } from "../../lib/block/usage_error.ts";
import { type ConfigParts, finishConfig, parseConfig } from "../../lib/daemon/config.ts";
import { systemClock } from "../../lib/daemon/context.ts";
import { type Daemon, startDaemon } from "../../lib/daemon/daemon.ts";
import { type ChannelAccess, DmUserDevice } from "../../lib/daemon/dm_user.ts";
import { dmUserNameProblem, parseDmUser } from "../../lib/daemon/dm_user_config.ts";
import { parseEndpoint } from "../../lib/daemon/endpoint.ts";
import { CHANNEL_FAILURES_MAX, CHANNEL_REOPEN_MS, CHANNELS_MAX } from "../../lib/daemon/limits.ts";
import { Simulation } from "../../lib/daemon/simulate.ts";
import type { OpenFile } from "../../lib/handle/open_file.ts";
import { MemoryLog } from "../support/context.ts";
import { ask, withControl } from "../support/control.ts";
import { runOk, withTempDir } from "../support/tools.ts";

Deno.test("parseDmUser() reads NAME and TARGET=NAME", () => {
  const rows: readonly (readonly [text: string, target: string, name: string])[] = [
    ["disk", "disk", "disk"],
    ["a=disk", "a", "disk"],
    ["a=vg/disk", "a", "vg/disk"],
    ["a=x=y", "a", "x=y"],
  ];
  for (const [text, target, name] of rows) {
    assert.deepEqual(parseDmUser(text, 2), { target, name, channels: 2 });
  }
});

Deno.test("dmUserNameProblem() keeps names below the folder of control devices", () => {
  for (const name of ["a", "a/b", "a b", "ü", ".a", "x".repeat(255)]) {
    assert.equal(dmUserNameProblem(name), null, name);
  }
  for (const name of ["", "/a", "a/", "a//b", "..", "a/../b", ".", "a\0", "x".repeat(256)]) {
    assert.notEqual(dmUserNameProblem(name), null, name);
    assert.throws(() => parseDmUser(`t=${name}`, 1), UsageError);
  }
});

function parts(text: string): ConfigParts {
  return parseConfig(text, { path: "dmu.toml", kinds: ["memory"] });
}

Deno.test("a configuration file says which target serves which dm-user target", () => {
  const config = finishConfig(parts(`
dm-user-dir = "/dev/other"
[[target]]
name = "a"
spec = "memory:1M"
dm-user = "vg/a"
channels = 3
[[target]]
name = "b"
spec = "memory:1M"
dm-user = "b"
`));
  assert.deepEqual(config.dmUser, [
    { target: "a", name: "vg/a", channels: 3 },
    { target: "b", name: "b", channels: 1 },
  ]);
  assert.deepEqual([config.dmUserFolder, config.endpoints], ["/dev/other", []]);
  const { dmUserFolder, dmUser } = finishConfig({
    ...parts('[[target]]\nname = "a"\nspec = "memory:1M"'),
    endpoints: [parseEndpoint("tcp:127.0.0.1:0")],
  });
  assert.deepEqual([dmUserFolder, dmUser], ["/dev/dm-user", []]);
});

Deno.test("wrong entries for dm-user are told with their place", () => {
  const target = '[[target]]\nname = "a"\nspec = "memory:1M"\n';
  const rows: readonly (readonly [text: string, message: RegExp])[] = [
    [`${target}channels = 2`, /dmu.toml:4:1: .* it has channels, but no dm-user/],
    [`${target}dm-user = "../a"`, /dmu.toml:4:11: .*"..\/a".* below the folder/],
    [`${target}dm-user = "a"\nchannels = 0`, /dmu.toml:5:12: /],
    [`${target}dm-user = "a"\nchannels = ${CHANNELS_MAX + 1}`, /dmu.toml:5:12: /],
  ];
  for (const [text, message] of rows) {
    assert.throws(() => parts(text), { name: "UsageError", message });
  }
  const entry = { name: "x", target: "a", channels: 1 };
  const wrong: readonly (readonly [entries: ConfigParts["dmUser"], message: RegExp])[] = [
    [[entry, entry], /"x": it is given twice/],
    [[{ ...entry, target: "b" }], /there is no target "b"; write TARGET=x with one of a$/],
    [[{ ...entry, channels: CHANNELS_MAX + 1 }], /has 1 to 64 channels, not 65/],
  ];
  for (const [dmUser = [], message] of wrong) {
    assert.throws(() => finishConfig({ ...parts(target), dmUser }), {
      name: "UsageError",
      message,
    });
  }
});

function memoryDevice(minimum = 1): Device {
  return new Device({
    geometry: { size: 2 ** 20, minimum, preferred: 4096, maximum: 2 ** 20, readOnly: false },
    capabilities: { synchronous: true, fua: false },
    read: (into) => void into.fill(7),
    write: () => {},
    flush: () => {},
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }, { name: "disk", clock: systemClock, log: new MemoryLog() });
}

Deno.test("DmUserDevice says what to load or to make where there is no control device", async () => {
  await withTempDir(async (folder) => {
    await Deno.mkdir(join(folder, "vg"));
    await using device = memoryDevice();
    const open = (at: string, name: string): DmUserDevice =>
      new DmUserDevice({
        config: { name, target: "disk", channels: 2 },
        folder: at,
        device,
        admit,
        clock: systemClock,
        log: new MemoryLog(),
      });
    const none = join(folder, "none"), make = "(dmu table a --size 1048576 | sh)";
    const rows: readonly (readonly [at: string, name: string, message: string])[] = [
      [
        none,
        "a",
        `Cannot open ${none}/a: there is no ${none}: load the module (modprobe dm-user), then ` +
        `make the target ${make}`,
      ],
      [
        folder,
        "a",
        `Cannot open ${folder}/a: ${folder} has no target of this name: make it ${make}`,
      ],
      [
        folder,
        "x/a",
        `Cannot open ${folder}/x/a: there is no ${folder}/x: make the target ` +
        make.replace("table a", "table x/a"),
      ],
      [
        folder,
        "a b;c", // no name for `dmu table`, and nothing to paste into a shell
        `Cannot open ${folder}/a b;c: ${folder} has no target of this name: make it ` +
        "(dmsetup create)",
      ],
      [folder, "vg", `Cannot open ${folder}/vg: is a directory`],
    ];
    for (const [at, name, message] of rows) {
      assert.throws(() => open(at, name), (error) => {
        assert.ok(error instanceof BlockError);
        assert.equal(error.message, message);
        return true;
      });
    }
  });
});

/** Lets every channel in. */
function admit(): ChannelAccess {
  return { gate: OPEN_GATE, close: () => {} };
}

Deno.test("DmUserDevice warns of blocks that are larger than the sectors of the kernel", async () => {
  await withTempDir(async (folder) => {
    const path = join(folder, "a");
    await Deno.writeTextFile(path, "");
    for (const minimum of [512, 4096]) {
      const log = new MemoryLog();
      await using device = memoryDevice(minimum);
      const config = { name: "a", target: "disk", channels: 1 };
      const options = { config, folder, device, admit, clock: systemClock, log };
      await new DmUserDevice(options).stop();
      const warnings = log.lines.filter((line) => line.startsWith("warn"));
      assert.deepEqual(
        warnings,
        minimum === 512 ? [] : [
          `warn: ${path} has sectors of 512 bytes, target disk takes whole blocks of 4096 alone: ` +
          "what is smaller gets an I/O error",
        ],
      );
    }
  });
});

/** Real time, but nobody sleeps; it remembers for how long they wanted to. */
function hastyClock(naps: number[]): Clock {
  return { ...systemClock, sleep: (ms) => (naps.push(ms), Promise.resolve()) };
}

Deno.test("DmUserDevice gives up on what fails again and again, and says why", async () => {
  await withTempDir(async (folder) => {
    await Deno.writeTextFile(join(folder, "a"), "");
    const log = new MemoryLog(), naps: number[] = [];
    await using device = memoryDevice();
    const served = new DmUserDevice({
      config: { name: "a", target: "disk", channels: 1 },
      folder,
      device,
      admit,
      clock: hastyClock(naps),
      log,
    });
    assert.equal(await served.serve(), "lost");
    await served.stop();
    const ended = log.lines.filter((line) => /^error: Channel 1 of .*no control device/.test(line));
    assert.equal(ended.length, CHANNEL_FAILURES_MAX + 1);
    assert.equal(naps.filter((ms) => ms === CHANNEL_REOPEN_MS).length, CHANNEL_FAILURES_MAX - 1);
    assert.equal(log.lines.at(-1), `error: ${folder}/a is not served any more`);
  });
});

Deno.test("startDaemon() opens nothing when one of the control devices cannot be opened", async () => {
  await withTempDir(async (folder) => {
    await Deno.writeTextFile(join(folder, "a"), "");
    const spec = parseSpec("memory:1M");
    const config = finishConfig({
      targets: [{ name: "a", spec, description: "", readOnly: false }],
      dmUser: [{ name: "a", target: "a", channels: 3 }, { name: "b", target: "a", channels: 1 }],
      dmUserFolder: folder,
    });
    const options = { registry: defaultRegistry(), log: new MemoryLog() };
    const open = (): number => [...Deno.readDirSync("/proc/self/fd")].length;
    const before = open();
    await assert.rejects(startDaemon(config, options), /has no target of this name/);
    assert.equal(open(), before);
  });
});

function canSimulate(): boolean {
  try {
    Deno.openSync("/dev/fuse", { read: true, write: true }).close();
    return Deno.uid() === 0;
  } catch {
    return false;
  }
}

interface Running {
  readonly daemon: Daemon;
  readonly log: MemoryLog;
  /** Resolves with what the daemon said when it had nothing left to do. */
  readonly end: Promise<string>;
  readonly disk: (name: string) => string;
}

function daemonTest(name: string, config: ConfigParts, fn: (bed: Running) => Promise<void>): void {
  const ignore = !canSimulate();
  const suffix = ignore ? " (skipped: needs root and /dev/fuse)" : "";
  Deno.test({ name: name + suffix, ignore, fn: () => withDaemon(config, fn) });
}

async function withDaemon(
  config: ConfigParts,
  fn: (running: Running) => Promise<void>,
): Promise<void> {
  await withTempDir(async (folder) => {
    const log = new MemoryLog(), end = Promise.withResolvers<string>();
    const targets = ["a", "b"].map((name) => ({ name, size: 2 ** 20 }));
    const mount = join(folder, "sim");
    const simulation = await Simulation.start({ folder: mount, targets, behaviour: {}, log });
    try {
      const daemon = await startDaemon(
        finishConfig({
          targets: ["a", "b"].map((name) => ({
            name,
            spec: parseSpec("memory:1M"),
            description: "",
            readOnly: false,
          })),
          dmUserFolder: join(mount, "dm-user"),
          ...config,
        }),
        {
          registry: defaultRegistry(),
          log,
          onDone: () => end.resolve("done"),
          onFailure: (reason) => end.resolve(`failure: ${reason}`),
        },
      );
      const disk = (name: string): string => join(mount, "disk", name);
      try {
        await fn({ daemon, log, end: end.promise, disk });
      } finally {
        await daemon.stop();
      }
    } finally {
      await simulation.stop();
    }
  });
}

Deno.test("startDaemon() tells of a device that is lost as of something that happens", async () => {
  await withTempDir(async (folder) => {
    const path = join(folder, "a"), lost = Promise.withResolvers<Error>();
    await runOk("mkfifo", [path]); // blocks as a control device does
    const config = finishConfig({
      targets: [{ name: "a", spec: parseSpec("memory:1M"), description: "", readOnly: false }],
      dmUser: [{ name: "a", target: "a", channels: 1 }],
      dmUserFolder: folder,
    });
    const log = new MemoryLog(), registry = defaultRegistry();
    const daemon = await startDaemon(config, { registry, log, onFailure: lost.resolve });
    try {
      using fifo = await Deno.open(path, { write: true });
      // What follows the first channel cannot be opened.
      await Deno.remove(path);
      await Deno.mkdir(path);
      const absurd = new Uint8Array(40).fill(255);
      absurd.set([1, 0, 0, 0, 0, 0, 0, 0], 8); // a WRITE that no BIO can be
      await fifo.write(absurd);
      const error = await lost.promise;
      assert.ok(error instanceof BlockError, "no fault of the program");
      assert.equal(error.message, "Cannot go on: no dm-user channel works any more");
    } finally {
      await daemon.stop();
    }
  });
});

const BOTH = [{ name: "a", target: "a", channels: 2 }, { name: "b", target: "a", channels: 1 }];

daemonTest(
  "startDaemon() serves one target to two devices, and is done when both are removed",
  { dmUser: BOTH },
  async ({ daemon, log, end, disk }) => {
    assert.deepEqual(daemon.dmUser.map(({ name, channels }) => [name, channels]), [["a", 2], [
      "b",
      1,
    ]]);
    const data = new Uint8Array(2 ** 20).fill(5);
    await Deno.writeFile(disk("a"), data, { create: false });
    assert.deepEqual(await Deno.readFile(disk("b")), data);
    await Deno.remove(disk("a"));
    await Deno.remove(disk("b"));
    assert.equal(await end, "done");
    assert.equal(log.lines.filter((line) => line.endsWith("its target was removed")).length, 2);
  },
);

daemonTest(
  "startDaemon() goes on with NBD when its dm-user targets are removed; stop() ends what is left",
  { dmUser: BOTH, endpoints: [parseEndpoint("tcp:127.0.0.1:0")] },
  async ({ daemon, log, end, disk }) => {
    await Deno.remove(disk("a"));
    await Deno.writeFile(disk("b"), new Uint8Array(4096).fill(1), { create: false });
    await daemon.stop();
    await Deno.remove(disk("b"));
    assert.equal(await Promise.race([end, Promise.resolve("nothing")]), "nothing");
    assert.equal(log.lines.filter((line) => line.startsWith("error")).length, 0);
  },
);

daemonTest(
  "OpenFile.revoke() of a channel ends it in good order, and it is not opened again",
  { dmUser: BOTH },
  async ({ daemon, end, disk }) => {
    const channels = (): string[] =>
      [...daemon.files].filter(({ kind }) => kind === "dm-user").map(({ peer }) => peer);
    assert.equal(channels().length, 3);
    const of = (name: string): OpenFile[] =>
      [...daemon.files].filter(({ peer }) => peer.endsWith(`/dm-user/${name}`));
    const [first, second] = of("a");
    first?.revoke();
    await daemon.files.drain(first === undefined ? [] : [first]);
    assert.equal(of("a").length, 1);
    // The other channel serves on.
    await Deno.writeFile(disk("a"), new Uint8Array(2 ** 20).fill(3), { create: false });
    assert.equal((await Deno.readFile(disk("b")))[2 ** 20 - 1], 3);
    for (const file of [second, ...of("b")]) file?.revoke();
    assert.equal(await end, "done");
    assert.deepEqual(channels(), []);
  },
);

Deno.test({
  name: "a dm-user device is served again when clients are let in to its target after a revoke",
  ignore: !canSimulate(),
  fn: () =>
    withTempDir((folder) => {
      const path = join(folder, "control");
      const control = {
        sockets: [{ kind: "unix", path, mode: 0o600 } as const],
        xenbus: [],
        users: new Map<number, number>(),
        // As for a default place, where the daemon ends with its devices.
        ifFree: true,
      };
      return withDaemon({ dmUser: BOTH, control }, async ({ daemon, log, end, disk }) => {
        const channels = (): number =>
          [...daemon.files].filter(({ kind }) => kind === "dm-user").length;
        const data = new Uint8Array(2 ** 20).fill(9);
        await Deno.writeFile(disk("a"), data, { create: false });
        await withControl(path, async (client) => {
          for (let round = 0; round < 5; round += 1) {
            // Every other time it is let in before the channels have come to their end.
            const drain = round % 2 === 0 ? { drain_ms: 10_000 } : {};
            const reply = await ask(client, { verb: "revoke", target: "a", ...drain });
            assert.deepEqual([reply["ok"], reply["files"]], [true, 3]);
            assert.deepEqual(await ask(client, { verb: "admit", target: "a" }), { ok: true });
            while (channels() < 3) await new Promise<void>((resolve) => setTimeout(resolve, 0));
            assert.deepEqual(await Deno.readFile(disk("b")), data);
          }
        });
        assert.equal(await Promise.race([end, Promise.resolve("nothing")]), "nothing");
        assert.deepEqual(log.lines.filter((line) => line.startsWith("error")), []);
        await Deno.remove(disk("a"));
        await Deno.remove(disk("b"));
        assert.equal(await end, "done");
      });
    }),
});
