/**
 * Traces: one event model, a native format, and foreign ones.
 *
 * @module
 */
export * from "./convert.ts";
export * from "./crash_points.ts";
export * from "./cut.ts";
export * from "./event.ts";
export { mergeTraces } from "./merge.ts";
export { formats } from "./formats/mod.ts";
export * as limits from "./limits.ts";
export { BlockBuilder, encodeHeader } from "./native.ts";
export { digestOf } from "./record.ts";
export * from "./recorder.ts";
export { type PlotFormat, type PlotOptions, plotTrace } from "./plot/mod.ts";
export * from "./replay.ts";
export * from "./replay_report.ts";
export * from "./source.ts";
export { sparkline, type SparklineOptions } from "./sparkline.ts";
export * from "./summary.ts";
export { TraceError } from "./trace_error.ts";
