// Changes as a table: what stood there, and what stands there now.

import { h, unseen } from "./dom.js";
import { byVm } from "./diff.js";

const SHOWN = 200;

/** Return tables of changes [{path, old, value}], one for each VM. */
export function changesView(changes, nameOf) {
  if (changes.length === 0) return null;
  const groups = byVm(changes.slice(0, SHOWN), nameOf);
  const more = changes.length - SHOWN;
  return h("div", { class: "changes" }, groups.map(group), more > 0 ? h("p", { class: "quiet" }, `… and ${more} more`) : null);
}

function group({ name, changes }) {
  return h(
    "table",
    {},
    h("caption", {}, name || "Other values"),
    h("thead", { class: "unseen" }, h("tr", {}, ["Value", "Before", "After"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, changes.map(line)),
  );
}

function line({ key, old, value, kind }) {
  return h(
    "tr",
    { class: kind },
    h("th", { scope: "row", class: "mono" }, key, unseen(` ${kind}`)),
    h("td", {}, old === null || old === undefined ? null : h("del", {}, old)),
    h("td", {}, value === null || value === undefined ? null : h("ins", {}, value)),
  );
}
