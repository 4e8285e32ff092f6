/**
 * `log`: one line for each operation when it is done, to a file or to the daemon's log:
 *
 *     2026-01-31T12:00:00.000Z write offset=4096 length=512 fua 85us ok
 *
 * @module
 */
import type { OpenContext } from "../block/context.ts";
import { toBlockError } from "../block/errors.ts";
import { chain, rescue } from "../block/maybe.ts";
import { listOption, omittable, optionSchema, pathOption, sizeOption } from "../block/options.ts";
import {
  FLAG_FAST_ONLY,
  FLAG_FUA,
  FLAG_MAY_TRIM,
  type Operation,
  OPERATIONS,
} from "../block/request.ts";
import type { Backend, FilterType, Opened } from "../block/types.ts";
import { aroundVerbs, type Call } from "./shared/around.ts";
import { LOG_BYTES } from "./shared/limits.ts";
import type { RawFile } from "./shared/raw_file.ts";
import { nextOf, wrap } from "./shared/wrap.ts";

/** Options of log. */
export interface LogOptions {
  /** Where lines go, after what is there; the daemon's log if left out. */
  readonly file?: string | undefined;
  /** Operations that get a line. */
  readonly operations: readonly Operation[];
  /** Bytes of lines; past them operations are counted alone. */
  readonly limit: number;
}

const FLAG_WORDS: readonly (readonly [flag: number, word: string])[] = [
  [FLAG_FUA, " fua"],
  [FLAG_MAY_TRIM, " may-trim"],
  [FLAG_FAST_ONLY, " fast-only"],
];

function lineOf(call: Call, wallMs: number, latencyUs: number, result: string): string {
  const { operation, offset, length, flags } = call;
  const range = operation === "flush" ? "" : ` offset=${offset} length=${length}`;
  const words = FLAG_WORDS.filter(([flag]) => (flags & flag) !== 0).map(([, word]) => word).join(
    "",
  );
  const time = new Date(wallMs).toISOString();
  return `${time} ${operation}${range}${words} ${Math.round(latencyUs)}us ${result}`;
}

/** Where lines go, within their limit. A log that cannot be written to never fails an operation. */
class Sink {
  readonly #file: RawFile | null;
  readonly #context: OpenContext;
  readonly #limit: number;
  readonly #encoder = new TextEncoder();
  #position: number;
  #left: number;
  #ended = false;
  /** Lines that were written. */
  lines = 0;
  /** Operations that got none. */
  unlogged = 0;

  constructor({ file, limit }: LogOptions, context: OpenContext) {
    this.#context = context;
    this.#limit = limit;
    this.#left = limit;
    this.#file = file === undefined ? null : context.files.open(file, {
      readOnly: false,
      createSize: 0,
      direct: false,
      lock: false,
    });
    this.#position = this.#file?.size() ?? 0;
  }

  write(line: string): void {
    if (this.#ended) {
      this.unlogged += 1;
      return;
    }
    try {
      const bytes = this.#encoder.encode(`${line}\n`);
      if (bytes.length > this.#left) {
        return this.#end(`its limit of ${this.#limit} bytes is reached`);
      }
      if (this.#file === null) this.#context.log.info(line);
      else this.#file.write(bytes, this.#position);
      this.#position += bytes.length;
      this.#left -= bytes.length;
      this.lines += 1;
    } catch (error) {
      this.#end(toBlockError(error).message);
    }
  }

  #end(reason: string): void {
    this.#ended = true;
    this.unlogged += 1;
    this.#context.log.warn(`The filter log writes no more lines: ${reason}`);
  }

  close(): void {
    this.#file?.close();
  }
}

function open(backend: Backend, options: LogOptions, context: OpenContext): Opened {
  const sink = new Sink(options, context);
  const { clock } = context;
  const verbs = aroundVerbs(nextOf(backend), (call, run) => {
    const startUs = clock.now();
    const done = (result: string): void =>
      sink.write(lineOf(call, clock.wall(), clock.now() - startUs, result));
    const work = (): ReturnType<typeof run> =>
      chain(run(), (value) => {
        done("ok");
        return value;
      });
    return rescue(work, (error) => {
      done(toBlockError(error).errno);
      throw error;
    });
  }, options.operations);
  const describe = (): Record<string, number> => ({ lines: sink.lines, unlogged: sink.unlogged });
  return {
    backend: wrap(backend, { verbs, dispose: () => sink.close() }),
    management: { describe },
  };
}

/** The filter. */
export const log: FilterType<LogOptions> = {
  name: "log",
  summary: "writes a line for each operation, with its latency and result",
  options: optionSchema<LogOptions>({
    file: omittable(pathOption({ summary: "where lines go; the daemon's log if left out" })),
    operations: listOption(OPERATIONS, {
      summary: "operations that get a line",
      default: OPERATIONS,
    }),
    limit: sizeOption({ summary: "bytes of lines that are written at most", default: LOG_BYTES }),
  }),
  open: (next, options, context) => Promise.try(open, next, options, context),
};
