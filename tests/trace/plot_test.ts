/**
 * Pictures of traces: what is collected is held against a model that keeps every request; what is drawn
 * is parsed, and looked through for what a reader would stumble over.
 *
 * @module
 */
import assert from "node:assert/strict";
import { OPERATIONS } from "../../lib/block/request.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import {
  NO_INFO,
  type SubmitEvent,
  type TraceEvent,
  type TraceInfo,
} from "../../lib/trace/event.ts";
import { PLOT_OFFSET_BINS, PLOT_TIME_BINS } from "../../lib/trace/limits.ts";
import { collectPlot, GROUP_OF, type PlotData } from "../../lib/trace/plot/collect.ts";
import { heatScale, heatStep } from "../../lib/trace/plot/heat_map.ts";
import { plotTrace } from "../../lib/trace/plot/mod.ts";
import { HEAT_STEPS, pictureStyle } from "../../lib/trace/plot/style.ts";
import { textWidth } from "../../lib/trace/plot/svg.ts";
import {
  byteTicks,
  countTicks,
  decades,
  latencyTicks,
  offsetTicks,
  type Tick,
  timeTicks,
} from "../../lib/trace/plot/ticks.ts";
import { TraceNotes, type TraceSource } from "../../lib/trace/source.ts";
import { elementsOf, parseXml, type XmlElement } from "../support/xml.ts";

const INFO: TraceInfo = { ...NO_INFO, completes: true, target: "disk", started_ms: 1.7e12 };

function source(events: readonly TraceEvent[], info = INFO, batch = 1000): TraceSource {
  const batches = async function* (): AsyncGenerator<readonly TraceEvent[]> {
    for (let at = 0; at < events.length; at += batch) yield events.slice(at, at + batch);
  };
  return { info, notes: new TraceNotes(), batches };
}

/** Requests of all operations, some of them never done, with times and offsets of a scale of their own. */
function randomTrace(seed: number, count: number): TraceEvent[] {
  const random = seededRandom(seed);
  const step = 2 ** random.below(24), region = 2 ** (12 + random.below(34));
  const base = random.pick([0, 0, 2 ** 45]);
  const events: TraceEvent[] = [], open: SubmitEvent[] = [];
  let timeUs = random.pick([0, 3.6e9]);
  for (let id = 1; id <= count; id += 1) {
    timeUs += random.below(step) + random.below(4) / 4;
    const operation = random.pick(OPERATIONS);
    const length = operation === "flush" ? 0 : random.oneIn(50) ? region : random.below(1 << 18);
    const event: SubmitEvent = {
      ...{ kind: "submit", timeUs, id, connection: 1, operation, length, flags: 0 },
      ...{ offset: length === 0 ? 0 : base + random.below(region), digest: null, payload: null },
    };
    events.push(event);
    if (!random.oneIn(40)) open.push(event);
    while (open.length > 0 && random.oneIn(2)) {
      timeUs += random.below(step);
      const [done] = open.splice(random.below(open.length), 1);
      const errno = random.oneIn(30) ? "EIO" as const : null;
      const id = done?.id ?? 0;
      events.push({ kind: "complete", timeUs, id, errno, digest: null, payload: null });
    }
  }
  return events;
}

function isSubmit(event: TraceEvent): event is SubmitEvent {
  return event.kind === "submit";
}

/** The narrowest width of bins, from `width` on, at which `slots` of them hold everything. */
function plainWidth(low: number, high: number, slots: number, width: number): number {
  while (Math.floor(high / width) - Math.floor(low / width) >= slots) width *= 2;
  return width;
}

function plainHeat(events: readonly SubmitEvent[], { time, offsets }: PlotData): Float64Array {
  const heat = new Float64Array(time.count * offsets.count);
  for (const { timeUs, offset, length } of events) {
    const column = Math.floor((timeUs - time.start) / time.width);
    for (let row = 0; row < offsets.count; row += 1) {
      const from = offsets.start + row * offsets.width, to = from + offsets.width;
      const bytes = Math.min(to, offset + length) - Math.max(from, offset);
      const at = column * offsets.count + row;
      if (bytes > 0) heat[at] = (heat[at] ?? 0) + bytes;
    }
  }
  return heat;
}

/** Requests in flight × µs by bin, one event after the other. */
function plainDepth(events: readonly TraceEvent[], { time }: PlotData): number[] {
  const sums = new Array<number>(time.count).fill(0);
  let depth = 0;
  events.forEach((event, index) => {
    depth += event.kind === "submit" ? 1 : -1;
    const end = events[index + 1]?.timeUs ?? event.timeUs;
    sums.forEach((sum, bin) => {
      const from = Math.max(event.timeUs, time.start + bin * time.width);
      const to = Math.min(end, time.start + (bin + 1) * time.width);
      if (to > from) sums[bin] = sum + (to - from) * depth;
    });
  });
  return sums;
}

Deno.test("collectPlot() has what a model has that keeps every request", async () => {
  for (let seed = 1; seed <= 12; seed += 1) {
    const events = randomTrace(seed, 400), submits = events.filter(isSubmit);
    const data = await collectPlot(source(events));
    const { time, offsets } = data;
    const times = events.map(({ timeUs }) => timeUs);
    const first = Math.min(...times), last = Math.max(...times);
    assert.equal(time.width, plainWidth(first, last, PLOT_TIME_BINS, 1), `seed ${seed}`);
    assert.equal(time.start, Math.floor(first / time.width) * time.width);
    assert.ok(time.start + time.count * time.width > last);
    const sized = submits.filter(({ operation, length }) =>
      length > 0 && GROUP_OF[operation] !== "other"
    );
    const low = Math.min(...sized.map(({ offset }) => offset));
    const high = Math.max(...sized.map(({ offset, length }) => offset + length - 1));
    assert.equal(offsets.width, plainWidth(low, high, PLOT_OFFSET_BINS, 512));
    for (const { name, requests, bytes, heat, latency } of data.groups) {
      const own = submits.filter(({ operation }) => GROUP_OF[operation] === name);
      const counts = new Array<number>(time.count).fill(0), sums = counts.slice();
      for (const { timeUs, length } of own) {
        const bin = Math.floor((timeUs - time.start) / time.width);
        counts[bin] = (counts[bin] ?? 0) + 1;
        sums[bin] = (sums[bin] ?? 0) + length;
      }
      assert.deepEqual([requests, bytes], [counts, sums], `seed ${seed}, ${name}`);
      const wanted = plainHeat(name === "other" ? [] : own, data);
      assert.deepEqual(heat, wanted, `seed ${seed}, ${name}`);
      const done = own.filter(({ id }) =>
        events.some((each) => each.kind === "complete" && each.id === id)
      );
      const told = latency.reduce((sum, each) => sum + (each?.count ?? 0), 0);
      assert.equal(told, done.length);
    }
    const depth = plainDepth(events, data);
    const scale = Math.max(1, ...depth);
    data.depthUs.forEach((found, bin) =>
      assert.ok(Math.abs(found - (depth[bin] ?? 0)) < scale * 1e-9, `seed ${seed}, bin ${bin}`)
    );
    assert.equal(data.depths.reduce((sum, count) => sum + count, 0), submits.length);
  }
});

Deno.test("heatScale() has a step for every cell, and no more than there are colours", () => {
  for (let seed = 1; seed <= 50; seed += 1) {
    const random = seededRandom(seed);
    const reach = 1 + random.below(40);
    const cells = Float64Array.from(
      { length: 200 },
      () => random.oneIn(3) ? 0 : 1 + random.below(2 ** random.below(reach)),
    );
    const scale = heatScale([cells]);
    assert.ok(scale !== null && scale.above.length <= HEAT_STEPS);
    assert.equal(scale.most, Math.max(...cells));
    const { above } = scale;
    assert.ok(above.every((from, step) => step === 0 ? from === 0 : from > (above[step - 1] ?? 0)));
    assert.ok(above.length === 1 || scale.most > (above.at(-1) ?? 0), "the last step is empty");
    for (const cell of cells.filter((each) => each > 0)) {
      const step = heatStep(scale, cell);
      assert.ok(cell > (above[step] ?? 0) && cell <= (above[step + 1] ?? scale.most));
    }
  }
  assert.equal(heatScale([new Float64Array(5)]), null);
});

function labelled(ticks: readonly Tick[]): string[] {
  return ticks.map(({ label }) => label).filter((label) => label !== "");
}

Deno.test("ticks are few, ascending, told apart and within their axis", () => {
  const random = seededRandom(9);
  for (let round = 0; round < 500; round += 1) {
    const span = 2 ** random.below(50) * (1 + random.below(1000) / 1000);
    const from = random.pick([0, random.below(2 ** 50)]), to = from + 512 + span;
    const rows: [string, Tick[], number, number][] = [
      ["offset", offsetTicks(from, to, 6), from, to],
      ["count", countTicks(span, 4), 0, span],
      ["bytes", byteTicks(span, 4, "/s"), 0, span],
    ];
    // Beyond this a double has no fraction of a µs left to tell ticks apart.
    if (span > 15) rows.push(["time", timeTicks(from / 1e3, from / 1e3 + span, 8), from / 1e3, to]);
    for (const [name, ticks, low, high] of rows) {
      const labels = labelled(ticks), what = `${name} ${low} to ${high}: ${labels.join(", ")}`;
      assert.ok(ticks.length >= 1 && ticks.length <= 10, what);
      assert.equal(new Set(labels).size, labels.length, what);
      ticks.forEach(({ value }, index) => {
        assert.ok(value >= low && value <= high, what);
        assert.ok(index === 0 || value > (ticks[index - 1]?.value ?? value), what);
      });
    }
    const [low, high] = decades(1 + random.below(1e4), 1e4 + span);
    const latency = labelled(latencyTicks(low, high));
    assert.ok(latency.length >= 2 && latency.length <= 7, latency.join());
    assert.equal(new Set(latency).size, latency.length);
  }
});

Deno.test("ticks of time speak the unit that fits", () => {
  const labels = (from: number, to: number): string =>
    labelled(timeTicks(from, to, 4)).slice(0, 3).join(", ");
  assert.equal(labels(0, 40), "0 µs, 10 µs, 20 µs");
  assert.equal(labels(0, 4000), "0 ms, 1 ms, 2 ms");
  assert.equal(labels(500_000, 520_000), "500 ms, 505 ms, 510 ms");
  assert.equal(labels(3.6e9, 3.6e9 + 8e5), "3600.0 s, 3600.2 s, 3600.4 s");
  assert.equal(labels(0, 60e6), "0 s, 20 s, 40 s");
  assert.equal(labels(0, 600e6), "0 min, 5 min, 10 min");
  assert.equal(labels(0, 5 * 3.6e9), "0:00 h, 2:00 h, 4:00 h");
  assert.equal(labels(0, 30 * 86.4e9), "0 d, 10 d, 20 d");
});

const HOSTILE = `</title><script>alert("1")</script>&amp;'\u0000\u001b[31m\ud800\u202e]]>`;

/** Traces with something peculiar about each. */
const CASES: Readonly<Record<string, () => TraceSource>> = {
  empty: () => source([], NO_INFO),
  "one request": () => source(randomTrace(2, 1).slice(0, 1)),
  "one request without completions": () =>
    source(randomTrace(2, 1).slice(0, 1), { ...INFO, completes: false }),
  "completions alone": () => source(randomTrace(1, 50).filter((each) => !isSubmit(each))),
  "flushes alone": () =>
    source(
      randomTrace(4, 300).map((each) =>
        isSubmit(each) ? { ...each, operation: "flush", offset: 0, length: 0 } : each
      ),
    ),
  "all in one moment": () => source(randomTrace(5, 60).map((each) => ({ ...each, timeUs: 7 }))),
  "times that go back": () => source(randomTrace(6, 300).toReversed()),
  "no completions": () =>
    source(randomTrace(7, 600).filter(isSubmit), { ...INFO, completes: false }),
  "a hostile name": () => source(randomTrace(8, 100), { ...INFO, target: HOSTILE.repeat(4) }),
  "many requests": () => source(randomTrace(9, 6000)),
  "far offsets": () => source(randomTrace(13, 500)),
  "a date that is none": () => source(randomTrace(10, 30), { ...INFO, started_ms: 1e300 }),
};

interface Placed {
  readonly words: string;
  readonly left: number;
  readonly right: number;
  readonly y: number;
}

/** Texts of a panel with the room that they take. */
function placedTexts(panel: XmlElement): Placed[] {
  return [...elementsOf(panel)].filter(({ name }) => name === "text").map((element) => {
    const { x, y, class: kind = "" } = element.attributes;
    const size = /title/.test(kind) ? 20 : /head|fact/.test(kind) ? 13 : 11;
    const width = textWidth(element.text, size), at = Number(x);
    const left = /\bend\b/.test(kind) ? at - width : /\bmid\b/.test(kind) ? at - width / 2 : at;
    return { words: element.text, left, right: left + width, y: Number(y) };
  });
}

for (const [name, make] of Object.entries(CASES)) {
  Deno.test(`plotTrace() writes an SVG that can be read: ${name}`, async () => {
    const svg = await plotTrace(make(), { format: "svg" });
    const root = parseXml(svg);
    assert.equal(root.name, "svg");
    const names = new Set([...elementsOf(root)].map((element) => element.name));
    assert.ok(!names.has("script") && !names.has("image") && !names.has("a"));
    assert.doesNotMatch(
      svg.replace('xmlns="http://www.w3.org/2000/svg"', ""),
      /https?:|NaN|Infinity/,
    );
    assert.doesNotMatch(svg, /undefined|null/);
    const panels = root.children.filter((child) => child.name === "g");
    assert.ok(panels.length >= 2);
    const height = Number(root.attributes["height"]);
    for (const panel of panels) {
      const top = Number(/translate\(0 (\d+)\)/.exec(panel.attributes["transform"] ?? "")?.[1]);
      const texts = placedTexts(panel);
      for (const text of texts) {
        assert.ok(text.left >= 0 && text.right <= 1000, `"${text.words}" leaves the page`);
        assert.ok(top + text.y > 0 && top + text.y < height, `"${text.words}" leaves the page`);
      }
      texts.forEach((one, index) => {
        for (const other of texts.slice(index + 1)) {
          const apart = Math.abs(one.y - other.y) >= 9 || one.right <= other.left ||
            other.right <= one.left;
          assert.ok(apart, `"${one.words}" and "${other.words}" overlap`);
        }
      });
    }
  });

  Deno.test(`plotTrace() writes a page around the same SVG: ${name}`, async () => {
    const svg = await plotTrace(make(), { format: "svg" });
    const html = await plotTrace(make(), { format: "html" });
    assert.ok(html.startsWith("<!DOCTYPE html>") && html.includes(svg));
    // All of it but the two elements of HTML that have no end.
    parseXml(html.replace(/^<!DOCTYPE html>\n/, "").replaceAll(/<meta [^>]*>/g, ""));
    assert.doesNotMatch(html, /<script|<link|<img|url\((?!#)|@import/);
  });
}

Deno.test("plotTrace() gives the same bytes however the trace is cut into batches", async () => {
  const events = randomTrace(21, 2000);
  const pictures = await Promise.all(
    [1, 77, 100_000].map((batch) => plotTrace(source(events, INFO, batch), { format: "html" })),
  );
  assert.equal(new Set(pictures).size, 1);
});

Deno.test("plotTrace() shows names as they are, but for what would turn or break the text", async () => {
  const info = { ...INFO, target: `a<b> & "c" 'd'\u202e\u0007` };
  const root = parseXml(await plotTrace(source(randomTrace(1, 20), info), { format: "svg" }));
  const wanted = `Trace of a<b> & "c" 'd'\ufffd\ufffd`;
  const texts = [...elementsOf(root)].filter(({ name }) => name === "text" || name === "title");
  assert.equal(texts.filter(({ text }) => text === wanted).length, 2);
  const titled = await plotTrace(source([], info), { format: "svg", title: "x".repeat(500) });
  const shown = [...elementsOf(parseXml(titled))].find(({ name }) => name === "text");
  assert.match(shown?.text ?? "", /^x{60,}…$/);
});

Deno.test("plotTrace() says what is missing", async () => {
  const trace = source(randomTrace(3, 500));
  trace.notes.lost = 12;
  trace.notes.problem("line 7", "no <number>");
  trace.notes.remarks.push("the trace is torn at byte 5: 9 bytes were dropped");
  const html = await plotTrace(trace, { format: "html" });
  for (
    const pattern of [
      /! Lost while it was recorded: 12 events/,
      /! Not understood in the trace: 1 part</,
      /! Note: the trace is torn at byte 5/,
      /! Ended with an error: \d+ requests/,
      /! Without completion in the trace: \d+ requests/,
      /<td>line 7<\/td><td>no &lt;number&gt;<\/td>/,
    ]
  ) assert.match(html, pattern);
  const untold = await plotTrace(CASES["no completions"]?.() ?? source([]), { format: "svg" });
  assert.match(
    untold,
    /! The trace does not tell when requests were done: no latency, no queue depth/,
  );
  assert.doesNotMatch(untold, /Latency of/);
});

Deno.test("the colours of heat maps run one way in lightness, in light and in dark", () => {
  const [light = "", dark = ""] = pictureStyle().split("@media (prefers-color-scheme:dark)");
  const lightness = (sheet: string): number[] =>
    Array.from({ length: HEAT_STEPS }, (_, step) => {
      const hex = new RegExp(`\\.h${step}\\{stroke:#([0-9a-f]{6})\\}`).exec(sheet)?.[1] ?? "";
      const [red = 0, green = 0, blue = 0] = [0, 2, 4].map((at) => {
        const value = parseInt(hex.slice(at, at + 2), 16) / 255;
        return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
      });
      return Math.cbrt(0.2126 * red + 0.7152 * green + 0.0722 * blue);
    });
  const steps = (values: number[]): number[] =>
    values.slice(1).map((value, index) => value - (values[index] ?? 0));
  // A step that one sees is about 0.02 of this scale.
  assert.ok(steps(lightness(light)).every((step) => step < -0.03), `${lightness(light)}`);
  assert.ok(steps(lightness(dark)).every((step) => step > 0.03), `${lightness(dark)}`);
});

Deno.test("plotTrace() of a million events needs no memory for them", async () => {
  const plot = new URL("../../lib/trace/plot/mod.ts", import.meta.url).href;
  // A heap in which a tenth of the events would not have room.
  const code = `
    import { plotTrace } from ${JSON.stringify(plot)};
    async function* batches() {
      let id = 0;
      for (let batch = 0; batch < 500; batch += 1) {
        const events = [];
        for (let index = 0; index < 1000; index += 1) {
          id += 1;
          const timeUs = id * 7, rest = { digest: null, payload: null };
          events.push({ kind: "submit", timeUs, id, connection: 0, operation: "read", flags: 0,
            offset: (id * 7919) % 100003 * 4096, length: 4096, ...rest });
          if (id > 16) events.push({ kind: "complete", timeUs, id: id - 16, errno: null, ...rest });
        }
        yield events;
      }
    }
    const info = { started_ms: null, target: "d", size: null, completes: true };
    const notes = { problems: [], problemCount: 0, lost: 0, remarks: [] };
    const svg = await plotTrace({ info, notes, batches }, { format: "svg" });
    console.log(svg.includes("1 M events"), svg.endsWith("</svg>\\n"));
  `;
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", "--v8-flags=--max-old-space-size=24", code],
  }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
  assert.equal(new TextDecoder().decode(stdout), "true true\n");
});
