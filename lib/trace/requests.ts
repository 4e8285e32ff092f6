/**
 * A trace looked at as requests: each completion is joined with its request, in one pass and in bounded
 * memory, and whoever looks hears how many are in flight.
 *
 * @module
 */
import type { Operation } from "../block/request.ts";
import type { CompleteEvent, SubmitEvent } from "./event.ts";
import { Pending } from "./pending.ts";
import type { TraceSource } from "./source.ts";

/** What is remembered of a request until it is done. */
export interface Started {
  /** When it was submitted, µs. */
  readonly timeUs: number;
  /** What it does. */
  readonly operation: Operation;
  /** Bytes. */
  readonly length: number;
}

/** Looks at the requests of a trace. */
export interface RequestObserver {
  /** A request enters; `depth` are in flight with it, 0 if the trace does not tell completions. */
  submitted(event: SubmitEvent, depth: number): void;
  /** A request is done; `depth` are in flight without it. */
  completed(event: CompleteEvent, started: Started, depth: number): void;
}

/** What was found. */
export interface RequestCounts {
  /** Events of either kind. */
  readonly events: number;
  /** Requests whose completion the trace lacks; all of them if it tells none. */
  readonly unanswered: number;
  /** Completions whose request the trace lacks. */
  readonly unasked: number;
}

/** Shows all requests of a trace to `observers`. Throws TraceError if the trace cannot be read on. */
export async function followRequests(
  source: TraceSource,
  observers: readonly RequestObserver[],
): Promise<RequestCounts> {
  const pending = new Pending<number, Started>();
  const { completes } = source.info;
  let events = 0, untold = 0, unasked = 0;
  for await (const batch of source.batches()) {
    events += batch.length;
    for (const event of batch) {
      if (event.kind === "submit") {
        // Not the event itself: it may hold a payload, and with it all the memory of its batch.
        const { id, timeUs, operation, length } = event;
        if (completes) pending.add(id, { timeUs, operation, length });
        else untold += 1;
        for (const each of observers) each.submitted(event, pending.size);
        continue;
      }
      const started = pending.take(event.id);
      if (started === null) unasked += 1;
      else for (const each of observers) each.completed(event, started, pending.size);
    }
  }
  return { events, unanswered: untold + pending.lost + pending.size, unasked };
}
