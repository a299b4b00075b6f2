// Why a VM is as it is: what the reaper has recorded, and what keeps it up now.

import { h } from "./dom.js";
import { clockTime, count, duration, when } from "./words.js";

/** Return what a boot or a stop was in one sentence. Pure. */
export function eventWords(event) {
  const what = event.what === "boot" ? "Booted" : "Stopped";
  const parts = [`${what}: ${event.cause}`];
  if (event.about) parts.push(event.about);
  if (event.client) parts.push(`from ${event.client}`);
  return parts.join(", ");
}

/** Return how a boot or a stop went. Pure. */
export function outcomeWords(event) {
  if (!event.outcome) return "not over yet";
  return event.took_s === null || event.took_s === undefined ? event.outcome : `${event.outcome} after ${duration(event.took_s)}`;
}

export function whyView(report, now) {
  return [
    h(
      "dl",
      { class: "answers" },
      answer("Why it booted", report.why_booted),
      answer("Why it is up", report.why_up, reasons(report, now)),
      answer("When it stops", report.when_stops),
    ),
    clients(report, now),
    events(report, now),
  ];
}

function answer(question, text, more = null) {
  return text || more ? h("div", {}, h("dt", {}, question), h("dd", {}, text || null, more)) : null;
}

function reasons(report, now) {
  const found = report.reasons ?? [];
  if (found.length === 0) return null;
  return h(
    "ul",
    { class: "reasons" },
    found.map((reason) => h("li", {}, reason.text, reason.until_ts ? h("small", {}, ` over ${when(reason.until_ts, now)}`) : null)),
  );
}

function clients(report, now) {
  const seen = report.clients ?? [];
  const open = report.connections ?? [];
  if (seen.length + open.length === 0) return null;
  return h(
    "table",
    { class: "facts" },
    h("caption", {}, "Who uses it"),
    h("thead", {}, h("tr", {}, ["Client", "For", "What", "Last"].map((text) => h("th", { scope: "col" }, text)))),
    h(
      "tbody",
      {},
      open.map((each) => h("tr", {}, h("td", { class: "mono" }, each.client || "not recorded"), h("td", {}, each.about), h("td", {}, count(each.count, "open connection")), h("td", {}, "now"))),
      seen.map((each) =>
        h("tr", {}, h("td", { class: "mono" }, each.client || "not recorded"), h("td", {}, each.about), h("td", {}, `${each.what}, ${count(each.count, "time")}, seen by ${each.reporter}`), h("td", { title: clockTime(each.ts, now) }, when(each.ts, now))),
      ),
    ),
  );
}

function events(report, now) {
  const found = report.events ?? [];
  if (found.length === 0) return null;
  return h(
    "table",
    { class: "facts" },
    h("caption", {}, "Last boots and stops"),
    h("thead", {}, h("tr", {}, ["When", "What", "Decided by", "Outcome"].map((text) => h("th", { scope: "col" }, text)))),
    h(
      "tbody",
      {},
      found.map((event) =>
        h("tr", {}, h("td", { title: when(event.ts, now) }, clockTime(event.ts, now)), h("td", {}, eventWords(event)), h("td", {}, event.decided_by), h("td", { class: event.outcome?.startsWith("failed") ? "bad" : null }, outcomeWords(event))),
      ),
    ),
  );
}
