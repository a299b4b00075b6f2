// The last day of a VM in a picture as wide as a word: queries above, the time it was up below. The numbers are pure.

import { svg } from "./dom.js";
import { count, duration } from "./words.js";
import { dayQueries } from "./rows.js";

const QUARTER_S = 900;
const HEIGHT = 20;
const BAND = 3;

/** Return for each quarter of an hour which part of it the VM was up, 0 to 1; the API may give seconds. */
export function partsUp(up) {
  const values = (up ?? []).map((each) => Math.max(0, Number(each) || 0));
  return Math.max(0, ...values) > 1 ? values.map((each) => Math.min(1, each / QUARTER_S)) : values;
}

/** Return the path of the queries: a bar for each quarter that had some. The root keeps a few beside many visible. */
export function queryPath(queries) {
  const values = (queries ?? []).map((each) => Math.max(0, Number(each) || 0));
  const most = Math.max(0, ...values);
  if (most === 0) return "";
  const room = HEIGHT - BAND - 2;
  return values
    .map((value, at) => (value ? `M${at} ${room}v-${Math.max(1.5, room * Math.sqrt(value / most)).toFixed(1)}h.8V${room}z` : ""))
    .join("");
}

/** Return the path of the time it was up: one line for each stretch. */
export function upPath(up) {
  const parts = partsUp(up);
  let path = "";
  for (let at = 0; at < parts.length; at += 1) {
    if (!parts[at]) continue;
    const from = at;
    while (parts[at + 1]) at += 1;
    const end = from === at ? from + Math.max(0.5, parts[at]) : at + 1;
    path += `M${from} ${HEIGHT - BAND}H${end.toFixed(2)}v${BAND}H${from}z`;
  }
  return path;
}

/** Return the same in words. */
export function sparkWords(vm) {
  const upSeconds = partsUp(vm.series?.up).reduce((sum, part) => sum + part, 0) * QUARTER_S;
  const up = upSeconds ? `up for ${duration(upSeconds)}` : "never up";
  return `Last day: ${count(dayQueries(vm), "query", "queries")}, ${up}`;
}

/** Return a picture with a function that shows another VM's day in it. */
export function spark() {
  const queries = svg("path", { class: "queries" });
  const up = svg("path", { class: "up" });
  const title = svg("title");
  const picture = svg(
    "svg",
    { class: "spark", viewBox: `0 0 96 ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
    title,
    svg("path", { class: "ground", d: `M0 ${HEIGHT - BAND}H96v${BAND}H0z` }),
    up,
    queries,
  );
  return {
    picture,
    show(vm) {
      queries.setAttribute("d", queryPath(vm.series?.queries));
      up.setAttribute("d", upPath(vm.series?.up));
      const words = sparkWords(vm);
      if (title.textContent !== words) {
        title.textContent = words;
        picture.setAttribute("aria-label", words);
      }
    },
  };
}
