/**
 * Pictures of traces: see docs/trace-pictures.md for how to read them.
 *
 * @module
 */
import type { TraceSource } from "../source.ts";
import { collectPlot } from "./collect.ts";
import { renderHtml, renderSvg } from "./picture.ts";

/** What a picture is written as. */
export type PlotFormat = "svg" | "html";

/** Settings of a picture. */
export interface PlotOptions {
  /** SVG alone, or a page with the same SVG and tables of figures. */
  readonly format: PlotFormat;
  /** The title; one that names the target if not told. */
  readonly title?: string;
}

/**
 * Reads a trace to its end and gives a picture of it: one file without scripts that needs no other. The
 * same trace gives the same text. Memory is bounded whatever the length of the trace. Throws TraceError.
 */
export async function plotTrace(source: TraceSource, options: PlotOptions): Promise<string> {
  const data = await collectPlot(source);
  const render = options.format === "svg" ? renderSvg : renderHtml;
  return render(data, options.title);
}
