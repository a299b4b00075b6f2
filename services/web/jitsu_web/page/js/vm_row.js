// One row of the list of VMs: made once, then only what differs is changed.

import { h, button, setText, setAttribute } from "./dom.js";
import { spark } from "./spark.js";
import { stateOf, canStart, canStop, nowWords } from "./states.js";
import { memoryTime, memoryTimeSpoken } from "./words.js";
import * as steer from "./steer.js";

/** The mark of a state: a colour and a shape, beside the word. */
export function badge() {
  const word = h("span", {});
  const element = h("span", { class: "badge" }, h("span", { class: "mark", "aria-hidden": "true" }), word);
  return {
    element,
    show(vm) {
      setText(word, vm.state);
      setAttribute(element, "data-tone", stateOf(vm).tone);
    },
  };
}

/** Make a row; `mayChange` says whether there are buttons. */
export function makeRow(mayChange) {
  let vm = null;
  const state = badge();
  const name = h("a", { class: "name" });
  const names = h("span", { class: "names" });
  const address = h("span", { class: "mono" });
  const day = spark();
  const now = h("span", { class: "now" });
  const saved = h("span", { class: "saved" });
  const power = button("Start", () => (canStart(vm) ? steer.start(vm) : steer.stop(vm)), { class: "button small" });
  const keep = button("Keep up", () => steer.keepUp(vm), { class: "button small" });
  const cell = (kind, ...content) => h("div", { role: "cell", class: `cell ${kind}` }, content);
  const element = h(
    "div",
    { role: "row", class: "row" },
    cell("state", state.element),
    cell("who", name, names),
    cell("where", address),
    cell("day", day.picture),
    cell("what", now),
    cell("memory", saved),
    cell("do", mayChange ? [power, keep] : null),
  );

  function show(next, seconds) {
    if (vm && vm.state !== next.state) flash();
    vm = next;
    state.show(vm);
    setText(name, vm.name);
    setAttribute(name, "href", `#/vms/${encodeURIComponent(vm.name)}`);
    setText(names, (vm.names ?? []).join(", "));
    setAttribute(names, "title", names.textContent);
    setText(address, vm.address || "–");
    day.show(vm);
    setText(saved, memoryTime(vm.memory_saved_bytes_s));
    setAttribute(saved, "aria-label", memoryTimeSpoken(vm.memory_saved_bytes_s));
    setAttribute(saved, "role", "img");
    if (mayChange) showButtons();
    tick(seconds);
  }

  function showButtons() {
    const starts = canStart(vm);
    setText(power, starts ? "Start" : "Stop");
    setAttribute(power, "aria-label", `${starts ? "Start" : "Stop"} ${vm.name}`);
    setAttribute(keep, "aria-label", `Keep ${vm.name} up`);
    power.disabled = !starts && !canStop(vm);
  }

  /** Show what depends on the time. */
  function tick(seconds) {
    const words = nowWords(vm, seconds);
    setText(now, words);
    setAttribute(now, "title", words);
    setAttribute(now, "data-tone", vm.last_error && stateOf(vm).tone !== "good" ? stateOf(vm).tone : null);
  }

  function flash() {
    element.classList.remove("changed");
    requestAnimationFrame(() => element.classList.add("changed"));
  }

  return { element, name, show, tick, vm: () => vm };
}
