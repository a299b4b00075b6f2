// A summon as a waterfall: where the time went between the query and the answer. The numbers are pure.

import { h, svg, unseen } from "./dom.js";
import { milliseconds } from "./words.js";

const WIDTH = 1000;
const LEAST = 4;

/** Return a bar for each stage {name, at_s} after the first: {name, left, width} in thousandths, {begins, took} in seconds. */
export function barsOf(stages) {
  if (!stages || stages.length < 2) return [];
  const begin = stages[0].at_s;
  const total = Math.max(stages[stages.length - 1].at_s - begin, 1e-6);
  return stages.slice(1).map(({ name, at_s: at }, index) => {
    const before = stages[index].at_s;
    const width = Math.min(WIDTH, Math.max(LEAST, (WIDTH * (at - before)) / total));
    const left = Math.min((WIDTH * (before - begin)) / total, WIDTH - width);
    return { name, left, width, begins: before - begin, took: at - before };
  });
}

/** Return how long a summon took in seconds. */
export function totalOf(summon) {
  const stages = summon.stages ?? [];
  return stages.length ? stages[stages.length - 1].at_s - stages[0].at_s : 0;
}

/** Return the bar that took longest, which is where to look first. */
export function longestOf(bars) {
  return bars.reduce((found, bar) => (found === null || bar.took > found.took ? bar : found), null);
}

/** Return a table of stages, each with its bar. */
export function waterfall(summon) {
  const bars = barsOf(summon.stages);
  const longest = longestOf(bars);
  return h(
    "table",
    { class: "waterfall" },
    h("caption", { class: "unseen" }, "The stages of this summon"),
    h("colgroup", {}, ["stage", "lanes", "begins", "takes"].map((name) => h("col", { class: name }))),
    h("thead", { class: "unseen" }, h("tr", {}, ["Stage", "Bar", "Begins after", "Takes"].map((text) => h("th", { scope: "col" }, text)))),
    h(
      "tbody",
      {},
      bars.map((bar) =>
        h(
          "tr",
          { class: bar === longest && bars.length > 1 ? "longest" : null },
          h("th", { scope: "row" }, bar.name, bar === longest && bars.length > 1 ? unseen(" (took longest)") : null),
          h("td", { class: "lane" }, lane(bar)),
          h("td", { class: "number begins" }, milliseconds(bar.begins)),
          h("td", { class: "number" }, milliseconds(bar.took)),
        ),
      ),
    ),
  );
}

function lane(bar) {
  return svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} 12`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "track", x: 0, y: 0, width: WIDTH, height: 12 }),
    svg("rect", { class: "part", x: bar.left.toFixed(1), y: 0, width: bar.width.toFixed(1), height: 12 }),
  );
}
