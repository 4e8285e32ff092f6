/**
 * XenStore services for tests: started on a private socket, with a record of who came and went.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import {
  type ServicePeer,
  startXenstoreService,
  type XenstoreService,
  type XenstoreServiceOptions,
} from "../../lib/xenstore/mod.ts";
import { within } from "./process.ts";
import { interopTest, type ToolName, withTempDir } from "./tools.ts";

/** Time in ms that a test waits for what has to happen. */
const WAIT_MS_MAX = 20_000;

/** What a service has told. */
export interface Happening {
  readonly kind: "opened" | "closed" | "refused";
  /** 0 for "refused". */
  readonly id: number;
  /** Why, or who. */
  readonly text: string;
}

/** A service with its record. */
export class RecordedService {
  /** The service. */
  readonly service: XenstoreService;
  /** Its socket. */
  readonly path: string;
  /** All that happened, in order. */
  readonly happenings: Happening[] = [];
  /** All peers that came. */
  readonly peers: ServicePeer[] = [];
  /** Why the thread died, if it did. */
  failure: string | null = null;
  readonly #waiting = new Set<() => void>();

  private constructor(service: XenstoreService, path: string) {
    this.service = service;
    this.path = path;
  }

  /** Starts a service on `path`. */
  static async start(
    path: string,
    options: Partial<XenstoreServiceOptions> = {},
  ): Promise<RecordedService> {
    let self: RecordedService | null = null;
    const early: (() => void)[] = [];
    const note = (act: (record: RecordedService) => void): void => {
      if (self === null) early.push(() => self !== null && act(self));
      else act(self);
    };
    const service = await startXenstoreService({
      sockets: [{ path, mode: 0o600 }],
      xenbus: [],
      domains: new Map(),
      opened: (peer) =>
        note((record) => {
          record.peers.push(peer);
          record.#note({ kind: "opened", id: peer.id, text: peer.peer });
        }),
      closed: (id, reason) => note((record) => record.#note({ kind: "closed", id, text: reason })),
      refused: (peer, reason) =>
        note((record) => record.#note({ kind: "refused", id: 0, text: `${peer}: ${reason}` })),
      control: (_, words) => Promise.resolve(words.join(" ")),
      onFailure: (reason) =>
        note((record) => {
          record.failure = reason;
          record.#wake();
        }),
      ...options,
    });
    self = new RecordedService(service, path);
    early.forEach((each) => each());
    return self;
  }

  /** What happened of one kind. */
  all(kind: Happening["kind"]): Happening[] {
    return this.happenings.filter((each) => each.kind === kind);
  }

  /** Peers that are connected, as far as has been heard. */
  get open(): number {
    return this.all("opened").length - this.all("closed").length;
  }

  /** Resolves once `condition` holds, which is looked at after each happening. */
  async until(condition: () => boolean, what: string): Promise<void> {
    while (!condition()) {
      const { promise, resolve } = Promise.withResolvers<true>();
      this.#waiting.add(() => resolve(true));
      const came = await within(promise, WAIT_MS_MAX);
      assert.ok(came === true || condition(), `Cannot see in time that ${what}`);
    }
  }

  /** Resolves when all peers have gone, each told of once. */
  async untilEmpty(): Promise<void> {
    await this.until(() => this.open === 0, "all peers have gone");
    const gone = this.all("closed").map(({ id }) => id);
    assert.equal(new Set(gone).size, gone.length, "one has gone twice");
  }

  /** What domain 0 sees of the store: nodes, bytes, connections. */
  async report(): Promise<string> {
    const reply = await this.service.client.request(0, "memreport\0");
    return new TextDecoder().decode(reply);
  }

  #note(happening: Happening): void {
    this.happenings.push(happening);
    this.#wake();
  }

  #wake(): void {
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const each of waiting) each();
  }
}

/** Why no xenbus file can be made on this machine, or null. */
const NO_XENBUS: string | null = (() => {
  if (Deno.uid() !== 0) return "root";
  try {
    Deno.openSync("/dev/fuse", { read: true, write: true }).close();
    return null;
  } catch {
    return "/dev/fuse";
  }
})();

/** Registers a test with real programs that use a xenbus file; skipped where there can be none. */
export function xenbusTest(
  name: string,
  tools: readonly ToolName[],
  fn: () => Promise<void>,
): void {
  if (NO_XENBUS === null) interopTest(name, tools, fn);
  else Deno.test({ name: `${name} (skipped: needs ${NO_XENBUS})`, ignore: true, fn });
}

/** As `withService`, with a xenbus file whose path `fn` gets. */
export function withXenbus(
  fn: (record: RecordedService, file: string) => Promise<void>,
  options: Partial<XenstoreServiceOptions> = {},
): Promise<void> {
  return withTempDir(async (folder) => {
    await Deno.chmod(folder, 0o755);
    const file = join(folder, "xenbus");
    await withService((record) => fn(record, file), { xenbus: [file], ...options });
    await assert.rejects(Deno.lstat(file), Deno.errors.NotFound, "it goes with its service");
  });
}

/** Calls `fn` with a service on a private socket, and closes it. */
export function withService(
  fn: (record: RecordedService) => Promise<void>,
  options: Partial<XenstoreServiceOptions> = {},
): Promise<void> {
  return withTempDir(async (folder) => {
    await Deno.chmod(folder, 0o755);
    const record = await RecordedService.start(join(folder, "socket"), options);
    try {
      await fn(record);
    } finally {
      await record.service.close();
    }
    assert.equal(record.failure, null);
  });
}
