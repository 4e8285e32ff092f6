/**
 * How pictures look: one style sheet with a light and a dark half. Colours are plain values in classes, so
 * that programs without custom properties show the light half.
 *
 * Kinds of requests differ in colour, lightness and in line or pattern. The scale of heat maps runs one
 * way in lightness, so it reads in grey and with any colour vision.
 *
 * @module
 */
import type { GroupName } from "./collect.ts";

/** Colours of a heat map from little to much. */
interface Theme {
  readonly paper: string;
  readonly ink: string;
  readonly faint: string;
  readonly grid: string;
  readonly field: string;
  readonly heat: readonly string[];
  readonly groups: Readonly<Record<GroupName, string>>;
}

const LIGHT: Theme = {
  paper: "#ffffff",
  ink: "#1c2128",
  faint: "#57606a",
  grid: "#d5dae0",
  field: "#f7f8fa",
  heat: ["#c3e3b0", "#96d3b4", "#58b9bd", "#2f96be", "#2a6cab", "#27438d", "#141d57"],
  groups: { read: "#0067a8", write: "#c94f00", discard: "#00805b", other: "#8a4f96" },
};

const DARK: Theme = {
  paper: "#0d1117",
  ink: "#e6edf3",
  faint: "#9aa5b1",
  grid: "#2c333c",
  field: "#141a22",
  heat: ["#34509e", "#2f6fb5", "#2f93c4", "#4fb6c0", "#8dd3b8", "#cbeabf", "#fbfde3"],
  groups: { read: "#5cb3f0", write: "#f59a4c", discard: "#3fcf9c", other: "#d79ae0" },
};

/** Steps of the colour scale of heat maps. */
export const HEAT_STEPS: number = LIGHT.heat.length;

/** What does not depend on the theme. */
const SHAPES = `text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;
font-size:11px;font-variant-numeric:tabular-nums}
.title{font-size:20px;font-weight:600}.head{font-size:13px;font-weight:600}.fact{font-size:12.5px}
.strong{font-weight:600}.end{text-anchor:end}.mid{text-anchor:middle}
path{fill:none}.grid{stroke-width:1;shape-rendering:crispEdges}
.line{stroke-width:1.6;stroke-linejoin:round}.thin{stroke-width:1;stroke-opacity:.9}
.top{stroke-width:1.6}.dash{stroke-dasharray:5 3}.dots{stroke-dasharray:1.5 2.5}
.ticks{stroke-dasharray:4 5}
.band{fill-opacity:.26}.soft{fill-opacity:.13}.h{stroke-width:1.04;shape-rendering:crispEdges}
.bar{stroke-width:1}.fill-write{fill:url(#fill-write)}.fill-discard{fill:url(#fill-discard)}
.profile{fill-opacity:.55}`;

function themeRules(theme: Theme): string {
  const groups = Object.entries(theme.groups).map(([name, colour]) =>
    `.f-${name}{fill:${colour}}.s-${name}{stroke:${colour}}`
  );
  const heat = theme.heat.map((colour, index) =>
    `.h${index}{stroke:${colour}}.k${index}{fill:${colour}}`
  );
  return [
    `:root{background:${theme.paper}}.paper{fill:${theme.paper}}.field{fill:${theme.field}}text{fill:${theme.ink}}`,
    `.faint{fill:${theme.faint}}.grid{stroke:${theme.grid}}.edge{stroke:${theme.faint}}`,
    `.p-write,.p-discard{fill:${theme.paper}}`,
    ...groups,
    ...heat,
  ].join("\n");
}

/** The style sheet of a picture. */
export function pictureStyle(): string {
  return `${SHAPES}\n${themeRules(LIGHT)}\n@media (prefers-color-scheme:dark){\n` +
    `${themeRules(DARK)}\n}\n`;
}

/** The style sheet of a page around a picture. */
export function pageStyle(): string {
  const rules = (theme: Theme): string =>
    `body{background:${theme.paper};color:${theme.ink}}` +
    `th,td{border-color:${theme.grid}}th,.faint,caption{color:${theme.faint}}`;
  return `:root{color-scheme:light dark}
body{margin:0 auto;max-width:1180px;padding:0 12px 32px;font:14px/1.45 system-ui,-apple-system,"Segoe UI",
Roboto,"Noto Sans",sans-serif}
svg[role]{display:block;width:100%;max-width:1100px;height:auto}
.scroll{overflow-x:auto}table{border-collapse:collapse;margin:12px 0 20px;font-size:13px;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:4px 0}th,td{padding:3px 7px;border-bottom:1px solid;text-align:right;white-space:nowrap}
th{font-weight:600}th:first-child,td:first-child{text-align:left}td.words{white-space:normal}
${rules(LIGHT)}
@media (prefers-color-scheme:dark){${rules(DARK)}}
`;
}

/** Patterns of bars, by which kinds differ without colour: definitions for \`fill="url(#…)"\`. */
export const PATTERNS = `<defs>
<pattern id="fill-write" width="6" height="6" patternUnits="userSpaceOnUse">
<rect width="6" height="6" class="p-write"/>
<path d="M-1 1l2-2M0 6l6-6M5 7l2-2" class="s-write" stroke-width="2"/></pattern>
<pattern id="fill-discard" width="5" height="5" patternUnits="userSpaceOnUse">
<rect width="5" height="5" class="p-discard"/><circle cx="2.5" cy="2.5" r="1.4" class="f-discard"/></pattern>
</defs>
`;
