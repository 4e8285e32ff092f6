/**
 * Part of a trace: a span of time, some operations, one connection. A request is taken or left as a
 * whole: its completion follows it, however late.
 *
 * @module
 */
import type { Operation } from "../block/request.ts";
import type { SubmitEvent, TraceEvent, TraceInfo } from "./event.ts";
import { Pending } from "./pending.ts";
import type { TraceSource } from "./source.ts";

/** What is taken of a trace. */
export interface Cut {
  /** Requests submitted at this time or later, µs; from the beginning if not told. */
  readonly fromUs?: number;
  /** Requests submitted before this time, µs; to the end if not told. */
  readonly toUs?: number;
  /** Only these operations; all if not told. */
  readonly operations?: ReadonlySet<Operation>;
  /** Only this connection; all if not told. */
  readonly connection?: number;
}

/** The part of a trace that `cut` describes. It begins at `fromUs`: times count from there. */
export function cutTrace(source: TraceSource, cut: Cut): TraceSource {
  const { fromUs = 0 } = cut;
  const { started_ms } = source.info;
  const info: TraceInfo = {
    ...source.info,
    started_ms: started_ms === null ? null : started_ms + fromUs / 1000,
  };
  return { info, notes: source.notes, batches: () => parts(source, cut) };
}

function isTaken(event: SubmitEvent, cut: Cut): boolean {
  const { fromUs = 0, toUs = Number.POSITIVE_INFINITY, operations, connection } = cut;
  return event.timeUs >= fromUs && event.timeUs < toUs &&
    (operations === undefined || operations.has(event.operation)) &&
    (connection === undefined || event.connection === connection);
}

async function* parts(
  source: TraceSource,
  cut: Cut,
): AsyncGenerator<readonly TraceEvent[], void> {
  const { fromUs = 0 } = cut;
  const { completes } = source.info;
  const pending = new Pending<number, true>();
  for await (const batch of source.batches()) {
    const part: TraceEvent[] = [];
    for (const event of batch) {
      const taken = event.kind === "submit" ? isTaken(event, cut) : pending.take(event.id) !== null;
      if (!taken) continue;
      if (completes && event.kind === "submit") pending.add(event.id, true);
      part.push(fromUs === 0 ? event : { ...event, timeUs: event.timeUs - fromUs });
    }
    if (part.length > 0) yield part;
  }
}
