// Which VMs are shown and in which order. Pure.

import { stateOf } from "./states.js";

/** What the list can be sorted by: how it is called, and the value that is compared. Numbers begin with the greatest. */
export const SORTS = {
  name: { label: "Name", value: (vm) => vm.name },
  state: { label: "State", value: (vm) => stateOf(vm).order },
  address: { label: "Address", value: (vm) => addressKey(vm.address) },
  queries: { label: "Queries", value: (vm) => -dayQueries(vm) },
  used: { label: "Used last", value: (vm) => vm.idle_s ?? Infinity },
  saved: { label: "Saved", value: (vm) => -(vm.memory_saved_bytes_s ?? 0) },
};

/** Return how many queries there were in the last day. */
export function dayQueries(vm) {
  return (vm.series?.queries ?? []).reduce((sum, each) => sum + (Number(each) || 0), 0);
}

/** Return a text by which addresses are in the order of their numbers: 10.0.0.9 before 10.0.0.10. */
export function addressKey(address) {
  return String(address ?? "").replace(/\d+/g, (digits) => digits.padStart(5, "0"));
}

const BY_TEXT = new Intl.Collator("en", { numeric: true });

function compare(a, b) {
  return typeof a === "string" || typeof b === "string" ? BY_TEXT.compare(String(a), String(b)) : a - b;
}

/** Whether each word of what was typed occurs in one of the texts that a row shows. */
export function matches(vm, words) {
  if (words.length === 0) return true;
  const text = [vm.name, vm.state, vm.address, vm.host, vm.uuid, vm.last_error, vm.waits_for, ...(vm.names ?? [])]
    .join("\n")
    .toLowerCase();
  return words.every((word) => text.includes(word));
}

/** Return the words of what was typed into the filter. */
export function wordsOf(typed) {
  return typed.toLowerCase().split(/\s+/).filter(Boolean);
}

/** Return the VMs to show, in their order. `view` has text, states (a Set; empty: all), sort and descending. */
export function visibleRows(vms, view) {
  const words = wordsOf(view.text);
  const kept = vms.filter((vm) => (view.states.size === 0 || view.states.has(vm.state)) && matches(vm, words));
  const { value } = SORTS[view.sort] ?? SORTS.name;
  const keyed = kept.map((vm) => ({ vm, key: value(vm) }));
  const sign = view.descending ? -1 : 1;
  keyed.sort((a, b) => sign * compare(a.key, b.key) || BY_TEXT.compare(a.vm.name, b.vm.name));
  return keyed.map((each) => each.vm);
}

/** Return which rows a window of the list shows: [first, last), with some more on both sides. */
export function windowOf({ top, height, rowHeight, rows, more = 8 }) {
  const first = Math.max(0, Math.floor(top / rowHeight) - more);
  const last = Math.min(rows, Math.ceil((top + height) / rowHeight) + more);
  return [Math.min(first, last), last];
}
