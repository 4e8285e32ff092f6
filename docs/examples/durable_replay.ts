/** Replays a trace as if every write had to be durable at once. @module */
import { defaultRegistry, FLAG_FUA, openDevice, parseSpec, systemClock, trace } from "../../mod.ts";

/** Writes carry FUA, so that the flushes of the trace are left out. */
export async function* durable(
  events: AsyncIterable<trace.TraceEvent>,
): AsyncGenerator<trace.TraceEvent, void> {
  for await (const event of events) {
    if (event.kind === "complete") yield event;
    else if (event.operation === "write") yield { ...event, flags: event.flags | FLAG_FUA };
    else if (event.operation !== "flush") yield event;
  }
}

/** Replays the trace in the file `path` on what `spec` opens. */
export async function replayDurably(path: string, spec: string): Promise<trace.ReplayReport> {
  const quiet = (): void => {};
  const log = { error: quiet, warn: quiet, info: quiet, debug: quiet };
  const settings = { registry: defaultRegistry(), log, readOnly: false };
  await using target = await openDevice(parseSpec(spec), settings);
  return await trace.replay({
    open: async () => {
      const { source } = await trace.openTrace(path);
      return trace.sourceOf(source.info, durable(trace.eventsOf(source)));
    },
    target: target.device,
    clock: systemClock,
    speed: "max",
  });
}

if (import.meta.main) {
  const [path = "", spec = ""] = Deno.args;
  const { operations: { write }, durationUs } = await replayDurably(path, spec);
  const ms = Math.round(durationUs / 1000);
  const line = `${write?.count ?? 0} writes in ${ms} ms, median ${write?.achieved.p50Us ?? 0} µs\n`;
  await Deno.stdout.write(new TextEncoder().encode(line));
}
