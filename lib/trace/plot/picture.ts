/**
 * The whole picture of a trace: one SVG, or a page of HTML with it and its figures. Both are one file
 * that needs no other and runs no script; the same trace gives the same bytes.
 *
 * @module
 */
import { PLOT_TITLE_LENGTH_MAX } from "../limits.ts";
import { distributionPanels } from "./bars.ts";
import type { PlotData } from "./collect.ts";
import { depthPanels, latencyPanels, ratePanels } from "./curves.ts";
import { facts, figureTables, titleOf, warnings } from "./figures.ts";
import { PAGE_RIGHT, PAGE_WIDTH, type Panel, PLOT_LEFT } from "./frame.ts";
import { heatPanels } from "./heat_map.ts";
import { pageStyle, PATTERNS, pictureStyle } from "./style.ts";
import { escapeText, rect, text, textWidth } from "./svg.ts";

/** Left edge of the title, px. */
const TITLE_LEFT = 24;
/** Size of facts, px; see the style sheet. */
const FACT_SIZE = 12.5;
const FACT_LINE_HEIGHT = 18;

/** Phrases in lines that fit the page. */
function wrapped(phrases: readonly string[]): string[] {
  const lines: string[] = [];
  for (const phrase of phrases) {
    const last = lines.at(-1), longer = `${last} · ${phrase}`;
    if (last !== undefined && textWidth(longer, FACT_SIZE) <= PAGE_RIGHT - TITLE_LEFT) {
      lines[lines.length - 1] = longer;
    } else lines.push(phrase);
  }
  return lines;
}

function shortened(content: string, length: number): string {
  const characters = [...content];
  return characters.length <= length ? content : `${characters.slice(0, length - 1).join("")}…`;
}

function titlePanel(data: PlotData, title: string): Panel {
  let y = 36;
  let body = text(TITLE_LEFT, y, shortened(title, PLOT_TITLE_LENGTH_MAX), "title");
  const room = Math.floor((PAGE_RIGHT - TITLE_LEFT) / textWidth("x", FACT_SIZE));
  y += 4;
  for (const line of wrapped(facts(data))) {
    body += text(TITLE_LEFT, y += FACT_LINE_HEIGHT, line, "fact faint");
  }
  for (const line of warnings(data)) {
    body += text(TITLE_LEFT, y += FACT_LINE_HEIGHT, shortened(`! ${line}`, room), "fact strong");
  }
  return { body, height: y + 28 };
}

function emptyPanel(): Panel {
  return { body: text(PLOT_LEFT, 40, "There are no requests in this trace", "head"), height: 80 };
}

/** What a picture says to those who do not see it. */
function description(data: PlotData): string {
  return [...facts(data), ...warnings(data)].join("; ");
}

/** The picture as SVG. */
export function renderSvg(data: PlotData, title: string = titleOf(data)): string {
  const panels = [
    titlePanel(data, title),
    ...data.groups.length === 0 ? [emptyPanel()] : [
      ...heatPanels(data),
      ...latencyPanels(data),
      ...ratePanels(data),
      ...depthPanels(data),
      ...distributionPanels(data),
    ],
  ];
  let y = 0;
  const body = panels.map((panel) => {
    const group = `<g transform="translate(0 ${Math.round(y)})">\n${panel.body}</g>\n`;
    y += panel.height;
    return group;
  });
  const height = Math.ceil(y);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${PAGE_WIDTH} ${height}" ` +
    `width="${PAGE_WIDTH}" height="${height}" role="img">\n<title>${escapeText(title)}</title>\n` +
    `<desc>${escapeText(description(data))}</desc>\n<style>${pictureStyle()}</style>\n${PATTERNS}` +
    `${rect(0, 0, PAGE_WIDTH, height, "paper")}${body.join("")}</svg>\n`;
}

/** The picture and its figures as a page of HTML. */
export function renderHtml(data: PlotData, title: string = titleOf(data)): string {
  return `<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n` +
    `<meta name="viewport" content="width=device-width,initial-scale=1">\n` +
    `<title>${escapeText(title)}</title>\n<style>\n${pageStyle()}</style>\n</head>\n<body>\n` +
    `${renderSvg(data, title)}${figureTables(data)}</body>\n</html>\n`;
}
