/**
 * Spans of a daemon for OpenTelemetry, through what Deno has built in: with OTEL_DENO=true in the
 * environment Deno sends them to a collector by itself, as OTEL_EXPORTER_OTLP_ENDPOINT and the other
 * variables of OpenTelemetry say. Each open file is a span, from its opening to its release. Without the
 * variable nothing is made here.
 *
 * Figures are not sent this way: Deno collects them from all threads in turn and waits for one that
 * blocks, as the acceptor's does, without end, also when the process is to end.
 *
 * @module
 */
import type { OpenFile } from "../handle/open_file.ts";
import type { FileChange, OpenFileTable } from "../handle/table.ts";

/** What is used of a Span of the OpenTelemetry API. */
interface Span {
  addEvent(name: string): void;
  end(): void;
}

interface SpanSettings {
  readonly attributes: Readonly<Record<string, string | number>>;
  /** It belongs to no other span. */
  readonly root: true;
}

/** What is used of a Tracer. */
interface Tracer {
  startSpan(name: string, settings: SpanSettings): Span;
}

/** True if Deno was started with OpenTelemetry switched on. */
export function telemetryIsOn(env: (name: string) => string | undefined): boolean {
  return env("OTEL_DENO") === "true" || env("OTEL_DENO") === "1";
}

/** Makes a span of each open file until what is returned is called. */
export function startTelemetry(files: OpenFileTable, version: string): () => void {
  const tracer: Tracer = Deno.telemetry.tracerProvider.getTracer("dmu", version);
  const spans = new Map<OpenFile, Span>();
  const begin = (file: OpenFile): void => {
    const { kind, minor, peer, target } = file;
    const attributes = {
      "dmu.kind": kind,
      "dmu.minor": minor,
      "dmu.peer": peer,
      ...(target === null ? {} : { "dmu.target": target }),
    };
    spans.set(file, tracer.startSpan(`dmu.file ${kind}`, { attributes, root: true }));
  };
  const changed = (file: OpenFile, change: FileChange): void => {
    if (change === "opened") return begin(file);
    const span = spans.get(file);
    if (change !== "state" || span === undefined) return;
    if (file.state !== "released") return span.addEvent(file.state);
    span.end();
    spans.delete(file);
  };
  for (const file of files) begin(file);
  const end = files.observe(changed);
  return () => {
    end();
    for (const span of spans.values()) span.end();
  };
}
