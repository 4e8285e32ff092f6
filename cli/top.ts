/**
 * `dmu top`: what the targets of the running daemon are doing, again and again. A table that is drawn
 * over itself on a terminal, lines in a pipe.
 *
 * @module
 */
import { formatRate } from "../lib/block/size.ts";
import { systemClock } from "../lib/daemon/context.ts";
import {
  type ControlClient,
  type CountedTarget,
  TARGET_STATES,
  targetNameOf,
} from "../lib/daemon/control_client.ts";
import { type AnyCommand, command, examples, seconds } from "./command.ts";
import { cell } from "./columns.ts";
import { CONTROL_OPTION, withControl } from "./control.ts";
import type { CliIo } from "./io.ts";
import { stateText } from "./ls.ts";
import { COLUMNS_MAX, plural, printJson } from "./output.ts";
import { printable } from "./safe_text.ts";
import { formatLatency } from "./show.ts";
import { RateMeter, type Rates, sparkline } from "./top_rates.ts";

/** Seconds between two looks: bounds, and unless told. */
const INTERVAL_S_MIN = 0.1, INTERVAL_S_MAX = 3_600, INTERVAL_S = 1;
/** Cells of a sparkline. */
const CELLS = 10;
/** Rows of the terminal that are no targets: two of titles, one of what is left out. */
const OTHER_ROWS = 3;

const ENTER_SCREEN = "\x1b[?1049h\x1b[?25l", LEAVE_SCREEN = "\x1b[?25h\x1b[?1049l";
const HOME = "\x1b[H", END_OF_LINE = "\x1b[K\r\n", END_OF_SCREEN = "\x1b[J";
/** Ctrl-c, as a terminal sends it that sends no signals. */
const INTERRUPT = "\x03";

interface TopOptions {
  readonly interval?: number | undefined;
  readonly once?: true | undefined;
  readonly control?: string | undefined;
  readonly json?: true | undefined;
}

/** A target in one row. */
interface Row {
  readonly target: CountedTarget;
  readonly rates: Rates;
  readonly history: History;
}

interface History {
  readonly meter: RateMeter;
  readonly iops: number[];
  readonly latencyUs: (number | null)[];
}

/** Looks at all targets and remembers what it saw. */
class Watcher {
  readonly #control: ControlClient;
  readonly #histories = new Map<string, History>();
  /** When the counters of a target were last seen to change, by name. */
  readonly #refreshedMs = new Map<string, number>();

  constructor(control: ControlClient) {
    this.#control = control;
  }

  /** Hears of refreshes until the connection ends. */
  async listen(): Promise<void> {
    try {
      for await (const { path } of await this.#control.store.watch("/dmu/target")) {
        const name = targetNameOf(path, "statistics");
        if (name !== null) this.#refreshedMs.set(name, nowMs());
      }
    } catch {
      // The next look says what is wrong.
    }
  }

  async look(): Promise<Row[]> {
    const targets = await this.#control.countedTargets();
    const now = nowMs();
    const names = new Set(targets.map(({ name }) => name));
    for (const name of this.#histories.keys()) {
      if (!names.has(name)) this.#histories.delete(name);
    }
    return targets.map((target) => {
      const known = this.#histories.get(target.name);
      const history = known ?? { meter: new RateMeter(), iops: [], latencyUs: [] };
      this.#histories.set(target.name, history);
      const refreshed = this.#refreshedMs.get(target.name) ?? now;
      const rates = history.meter.look(target.statistics, refreshed, now);
      if (known !== undefined) {
        remember(history.iops, rates.iops);
        remember(history.latencyUs, rates.latencyUs);
      }
      return { target, rates, history };
    });
  }
}

function nowMs(): number {
  return systemClock.now() / 1000;
}

function remember<T>(values: T[], value: T): void {
  values.push(value);
  if (values.length > CELLS) values.shift();
}

/** Operations a second in at most 6 characters. */
function formatIops(iops: number): string {
  if (iops < 99_999.5) return String(Math.round(iops));
  if (iops < 999_500) return `${Math.round(iops / 1000)}k`;
  return `${(iops / 1_000_000).toFixed(1)}M`;
}

function perSecond(bytes: number): string {
  return formatRate(bytes).replace(/\/s$/, "");
}

function latencyText({ latencyUs }: Rates): string {
  return latencyUs === null ? "-" : formatLatency(latencyUs);
}

const LIVE_TITLE = [
  cell("NAME", 16),
  cell("IOPS", 6, true),
  cell("", CELLS),
  cell("LATENCY", 7, true),
  cell("", CELLS),
  cell("READ/s", 9, true),
  cell("WRITE/s", 9, true),
  cell("BUSY", 4, true),
].join(" ");

function liveLine({ target, rates, history }: Row): string {
  const name = cell(printable(target.name), 16);
  if (target.state !== TARGET_STATES.connected) return `${name} ${stateText(target)}`;
  return [
    name,
    cell(formatIops(rates.iops), 6, true),
    sparkline(history.iops, CELLS),
    cell(latencyText(rates), 7, true),
    sparkline(history.latencyUs, CELLS),
    cell(perSecond(rates.readBytesPerSecond), 9, true),
    cell(perSecond(rates.writeBytesPerSecond), 9, true),
    cell(String(target.statistics.inFlight), 4, true),
  ].join(" ");
}

function draw(io: CliIo, rows: readonly Row[], time: string): void {
  const width = Math.min(io.columns, COLUMNS_MAX);
  const fits = Math.max(1, io.rows - OTHER_ROWS);
  const more = rows.length - fits;
  const lines = [
    `dmu top, ${time}, ${plural(rows.length, "target")} (q ends)`,
    LIVE_TITLE,
    ...rows.slice(0, fits).map(liveLine),
    ...(more > 0 ? [`… and ${more} more`] : []),
  ];
  const text = lines.map((line) => [...line].slice(0, width).join("").trimEnd()).join(END_OF_LINE);
  io.out(`${HOME}${text}\x1b[K${END_OF_SCREEN}`);
}

const LINE_TITLE = plainLine("TIME", "NAME", ["IOPS", "LATENCY", "READ/s", "WRITE/s", "BUSY"]);

function plainLine(time: string, name: string, cells: readonly string[]): string {
  return [cell(time, 8), cell(name, 21), ...cells.map((each) => cell(each, 9, true))].join(" ");
}

function printLines(io: CliIo, rows: readonly Row[], time: string): void {
  for (const { target, rates } of rows) {
    const open = target.state === TARGET_STATES.connected;
    const cells = open
      ? [
        formatIops(rates.iops),
        latencyText(rates),
        perSecond(rates.readBytesPerSecond),
        perSecond(rates.writeBytesPerSecond),
        String(target.statistics.inFlight),
      ]
      : [stateText(target)];
    io.out(`${plainLine(time, printable(target.name), cells).trimEnd()}\n`);
  }
}

function printRowsAsJson(io: CliIo, rows: readonly Row[], time: Date): void {
  const targets = rows.map(({ target, rates }) => ({
    name: target.name,
    state: target.state,
    ...rates,
    inFlight: target.statistics.inFlight,
  }));
  printJson(io, { time: time.toISOString(), targets });
}

/** Shows rows; `first` if there are no rates yet. */
type Show = (rows: readonly Row[], first: boolean) => void;

function shower(io: CliIo, live: boolean, json: boolean): Show {
  const time = (): string => new Date(systemClock.wall()).toTimeString().slice(0, 8);
  if (live) return (rows) => draw(io, rows, time());
  if (json) {
    return (rows, first) => {
      if (!first) printRowsAsJson(io, rows, new Date(systemClock.wall()));
    };
  }
  return (rows, first) => {
    if (first) io.out(`${LINE_TITLE}\n`);
    else printLines(io, rows, time());
  };
}

/** Looks and shows until `signal` aborts, or twice if `once`. */
async function follow(
  watcher: Watcher,
  show: Show,
  { interval = INTERVAL_S, once }: TopOptions,
  signal: AbortSignal,
): Promise<void> {
  for (let looks = 0; !signal.aborted; looks++) {
    show(await watcher.look(), looks === 0);
    if (once && looks === 1) return;
    await systemClock.sleep(interval * 1000, signal).catch(() => {});
  }
}

async function top(io: CliIo, control: ControlClient, options: TopOptions): Promise<void> {
  const { once = false, json = false } = options;
  const live = io.outIsTerminal && !once && !json;
  const leave = new AbortController();
  const endSignals = io.onStopSignal(() => leave.abort());
  const endKeys = live
    ? io.onKeys((keys) => {
      if (/q/i.test(keys) || keys.includes(INTERRUPT)) leave.abort();
    })
    : () => {};
  const watcher = new Watcher(control);
  // A daemon that has gone is noticed at once, by the look that fails.
  const gone = new AbortController();
  const listening = watcher.listen().finally(() => gone.abort());
  try {
    if (live) io.out(ENTER_SCREEN);
    const show = shower(io, live, json);
    await follow(watcher, show, options, AbortSignal.any([leave.signal, gone.signal]));
    if (gone.signal.aborted && !leave.signal.aborted) await watcher.look();
  } finally {
    endKeys();
    endSignals();
    if (live) io.out(LEAVE_SCREEN);
    await control.close();
    await listening;
  }
}

/** The command `dmu top`. */
export function topCommand(io: CliIo): AnyCommand {
  return command("top", io)
    .summary("show what the targets are doing, live")
    .description(
      "Show operations a second, mean latency and throughput of all targets of the running " +
        "daemon, again and again: a table on a terminal, which q or ctrl-c leaves, lines in a pipe.",
    )
    .option(
      "--interval <seconds>",
      `time between two looks, ${INTERVAL_S} if not told; counters are refreshed once a second`,
      seconds(INTERVAL_S_MAX, INTERVAL_S_MIN),
    )
    .option("--once", "print one interval and end")
    .option(...CONTROL_OPTION)
    .option("--json", "print each interval as a line of JSON")
    .option("--verbose", "show stacks of errors")
    .addHelpText(
      "after",
      examples([
        ["For a minute, into a file", "timeout 60 dmu top --json >load.jsonl"],
        ["Once", "dmu top --once --interval 5"],
      ]),
    )
    .action((options) => withControl(io, options.control, (control) => top(io, control, options)));
}
