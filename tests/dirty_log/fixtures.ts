/**
 * What tests of dirty-region logs share: a session over files that can crash, and a kernel in the same
 * process whose frames a test may hold back.
 *
 * @module
 */
import { SystemError } from "../../lib/sys/system_error.ts";
import type { FileAccess, RawFile } from "../../lib/sys/file_access.ts";
import { OpenPlaces } from "../../lib/dirty_log/places.ts";
import { LogSession } from "../../lib/dirty_log/session.ts";
import { SimulatedLogKernel } from "../../lib/dirty_log/simulator/kernel.ts";
import { ManualClock, MemoryLog } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";

/** A daemon's session over `files`, whose disk logs are all files named as the table has it. */
export function sessionOver(
  files: FileAccess,
  { log = new MemoryLog(), clock = new ManualClock() } = {},
): LogSession {
  const places = new OpenPlaces(files, (name) => ({ path: name, create: true, device: null }));
  return new LogSession({ places, log, now_us: () => clock.now() });
}

/** A kernel and a daemon in one process: every frame is answered at once. */
export class DirectPair {
  readonly clock = new ManualClock();
  readonly log = new MemoryLog();
  readonly kernel: SimulatedLogKernel;
  /** The daemon, or null while none runs. */
  session: LogSession | null;
  /** Frames in the order in which they were sent. */
  readonly sent: Uint8Array[] = [];

  constructor(readonly files: FileAccess = new CrashFiles({ seed: 1 })) {
    this.session = this.newSession();
    this.kernel = new SimulatedLogKernel({
      clock: this.clock,
      send: (frame) => {
        if (this.session === null) return false;
        this.sent.push(frame);
        const reply = this.session.handle(frame);
        if (reply !== null) this.kernel.receive(reply);
        return true;
      },
    });
  }

  /** A daemon that knows nothing yet. */
  newSession(): LogSession {
    return sessionOver(this.files, this);
  }
}

/** Turns of the promise queue, after which everything has settled that waits for nothing else. */
export async function settled(turns = 200): Promise<void> {
  for (let turn = 0; turn < turns; turn += 1) await Promise.resolve();
}

/** Files that fail when told to. */
export class FailingFiles implements FileAccess {
  failing: "read" | "write" | "flush" | null = null;
  readonly #files: FileAccess;

  constructor(files: FileAccess) {
    this.#files = files;
  }

  open(path: string, options: Parameters<FileAccess["open"]>[1]): RawFile {
    const file = this.#files.open(path, options);
    const check = (call: "read" | "write" | "flush"): void => {
      if (this.failing === call) throw new SystemError("EIO", call, path, "the medium is gone");
    };
    return new Proxy(file, {
      get(target, name): unknown {
        if (name === "read" || name === "write" || name === "flush") check(name);
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }
}
