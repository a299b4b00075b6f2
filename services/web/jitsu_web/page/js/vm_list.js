// The list of all VMs. Only the rows in sight are elements of the document: with 2,000 VMs that is the difference
// between a page that answers at once and one that does not. The order is made again at most twice a second.

import { h, replace, setAttribute, setText } from "./dom.js";
import { SORTS, visibleRows, windowOf } from "./rows.js";
import { STATES, announcement, canStart, canStop, countStates } from "./states.js";
import { announce } from "./say.js";
import { count, number } from "./words.js";
import { makeRow } from "./vm_row.js";
import * as steer from "./steer.js";

const ORDER_AGAIN_MS = 500;
const COLUMNS = [
  ["State", "state"],
  ["Name", "name"],
  ["Address", "address"],
  ["Last day", "queries"],
  ["Now", "used"],
  ["Saved", "saved"],
  ["Actions", null],
];
/** What was typed and chosen stays when the person goes to another page and comes back. */
const view = { text: "", states: new Set(), sort: "name", descending: false };
const now = () => Date.now() / 1000;

export class VmList {
  constructor(model, signal) {
    this.model = model;
    this.signal = signal;
    this.shown = [];
    this.rows = new Map();
    this.rowHeight = 56;
    this.frame = 0;
    this.dirty = new Set();
    this.orderTimer = 0;
    this.element = h("section", { class: "vms" }, this.toolbar(), this.table());
    this.watch();
  }

  get title() {
    return "VMs";
  }

  toolbar() {
    this.filter = h("input", {
      type: "search", id: "filter", value: view.text, autocomplete: "off", spellcheck: false,
      placeholder: "Name, address, host, error …", "aria-label": "Filter VMs", "aria-keyshortcuts": "/",
      oninput: () => this.set({ text: this.filter.value }),
    });
    this.chips = h("div", { class: "chips", role: "group", "aria-label": "Show only these states" });
    this.sort = h(
      "select",
      { onchange: () => this.set({ sort: this.sort.value, descending: false }) },
      Object.entries(SORTS).map(([key, { label }]) => h("option", { value: key }, label)),
    );
    this.summary = h("p", { class: "summary", role: "status" });
    return h(
      "div",
      { class: "toolbar" },
      h("h1", {}, "VMs"),
      this.filter,
      h("label", { class: "sorter" }, "Sort by ", this.sort),
      this.chips,
      this.summary,
    );
  }

  table() {
    this.heads = COLUMNS.map(([label, sort]) => this.head(label, sort));
    this.body = h("div", { role: "rowgroup", class: "body" });
    this.nothing = h("p", { class: "nothing", hidden: true });
    this.grid = h(
      "div",
      { role: "table", class: "table", "aria-label": "VMs" },
      h("div", { role: "rowgroup", class: "head" }, h("div", { role: "row", class: "row", "aria-rowindex": 1 }, this.heads)),
      this.body,
    );
    this.probe = h("div", { class: "row probe", "aria-hidden": "true" });
    return h("div", { class: "frame" }, this.probe, this.grid, this.nothing);
  }

  head(label, sort) {
    const content = sort
      ? [h("button", { type: "button", class: "sort", onclick: () => this.sortBy(sort), "data-sort": sort }, label, h("span", { class: "arrow", "aria-hidden": "true" })), h("span", { class: "plain-head" }, label)]
      : label;
    return h("div", { role: "columnheader", class: `cell head-${sort ?? "do"}` }, content);
  }

  watch() {
    const { model, signal } = this;
    model.when("vm", ({ vm, before }) => this.changed(vm, before), signal);
    model.when("gone", () => this.orderSoon(), signal);
    model.when("list", () => this.order(), signal);
    window.addEventListener("scroll", () => this.drawSoon(), { signal, passive: true });
    window.addEventListener("resize", () => this.measure(), { signal });
    this.element.addEventListener("keydown", (event) => this.key(event));
    const ticking = setInterval(() => this.tick(), 1000);
    signal.addEventListener("abort", () => clearInterval(ticking));
  }

  /** The element is in the document now. */
  entered() {
    this.measure();
    this.order();
  }

  focusFilter() {
    this.filter.focus();
    this.filter.select();
  }

  set(changes) {
    Object.assign(view, changes);
    this.order();
    window.scrollTo({ top: Math.min(window.scrollY, this.grid.offsetTop) });
  }

  sortBy(sort) {
    this.set({ sort, descending: view.sort === sort && !view.descending });
  }

  toggle(state) {
    const states = new Set(view.states);
    if (!states.delete(state)) states.add(state);
    this.set({ states });
  }

  changed(vm, before) {
    announce(announcement(before, vm));
    this.dirty.add(vm.uuid);
    this.drawSoon();
    this.orderSoon();
  }

  orderSoon() {
    this.orderTimer ||= setTimeout(() => {
      this.orderTimer = 0;
      if (!this.signal.aborted) this.order();
    }, ORDER_AGAIN_MS);
  }

  order() {
    const all = this.model.list();
    this.shown = visibleRows(all, view);
    this.drawChips(all);
    this.heads.forEach((head, at) => {
      const sorted = COLUMNS[at][1] === view.sort;
      if (COLUMNS[at][1]) setAttribute(head, "aria-sort", sorted ? (view.descending ? "descending" : "ascending") : "none");
    });
    this.sort.value = view.sort;
    setAttribute(this.grid, "aria-rowcount", String(this.shown.length + 1));
    const part = this.shown.length === all.length ? count(all.length, "VM") : `${number(this.shown.length)} of ${count(all.length, "VM")}`;
    setText(this.summary, this.model.complete ? part : `${part}, reading more …`);
    this.drawNothing(all.length);
    this.draw();
  }

  drawNothing(all) {
    this.nothing.hidden = this.shown.length > 0 || !this.model.complete;
    this.grid.hidden = this.shown.length === 0;
    setText(this.nothing, all ? "No VM is like that." : "No VM is configured yet. On a terminal, `jitsu discover` shows the machines that could be.");
  }

  drawChips(all) {
    const counts = countStates(all);
    for (const state of view.states) if (!counts.some(([each]) => each === state)) counts.push([state, 0]);
    const key = counts.map(([state, amount]) => `${state}${amount}${view.states.has(state)}`).join();
    if (key === this.chipsKey) return;
    this.chipsKey = key;
    const focused = document.activeElement?.dataset?.state;
    replace(
      this.chips,
      counts.map(([state, amount]) =>
        h(
          "button",
          { type: "button", class: "chip", "data-state": state, "data-tone": STATES[state]?.tone ?? "warn", "aria-pressed": String(view.states.has(state)), onclick: () => this.toggle(state) },
          h("span", { class: "mark", "aria-hidden": "true" }),
          `${state} `,
          h("b", {}, number(amount)),
        ),
      ),
    );
    if (focused) this.chips.querySelector(`[data-state="${CSS.escape(focused)}"]`)?.focus();
  }

  measure() {
    this.rowHeight = this.probe.offsetHeight || this.rowHeight;
    this.draw();
  }

  drawSoon() {
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  /** Put the rows in sight into the document, in their order, and change those of which something is new. */
  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const { rowHeight, shown } = this;
    const top = -this.body.getBoundingClientRect().top;
    const [first, last] = windowOf({ top, height: window.innerHeight, rowHeight, rows: shown.length });
    this.body.style.height = `${shown.length * rowHeight}px`;
    const wanted = new Map();
    for (let at = first; at < last; at += 1) wanted.set(shown[at].uuid, at);
    this.keepFocused(wanted);
    for (const [uuid, row] of this.rows) {
      if (!wanted.has(uuid)) {
        row.element.remove();
        this.rows.delete(uuid);
      }
    }
    let previous = null;
    for (const [uuid, at] of [...wanted].sort((a, b) => a[1] - b[1])) {
      const row = this.place(uuid, at);
      const next = previous ? previous.nextSibling : this.body.firstChild;
      if (next !== row.element) this.body.insertBefore(row.element, next);
      previous = row.element;
    }
    this.dirty.clear();
  }

  /** The row that has the focus stays, also out of sight, or the focus would be lost. */
  keepFocused(wanted) {
    const uuid = document.activeElement?.closest?.(".body > .row")?.dataset.uuid;
    if (!uuid || wanted.has(uuid)) return;
    const at = this.shown.findIndex((vm) => vm.uuid === uuid);
    if (at >= 0) wanted.set(uuid, at);
  }

  place(uuid, at) {
    let row = this.rows.get(uuid);
    const vm = this.model.vms.get(uuid) ?? this.shown[at];
    if (!row) {
      row = makeRow(this.model.isOperator);
      row.element.dataset.uuid = uuid;
      this.rows.set(uuid, row);
      row.show(vm, now());
    } else if (this.dirty.has(uuid) || row.vm() !== vm) row.show(vm, now());
    row.element.style.transform = `translateY(${at * this.rowHeight}px)`;
    setAttribute(row.element, "aria-rowindex", String(at + 2));
    return row;
  }

  tick() {
    if (document.hidden) return;
    const seconds = now();
    for (const row of this.rows.values()) row.tick(seconds);
  }

  key(event) {
    if (event.target === this.filter) {
      if (event.key === "Escape" && view.text) {
        this.filter.value = "";
        this.set({ text: "" });
        event.stopPropagation();
      } else if (event.key === "ArrowDown" || event.key === "Enter") this.focusRow(this.firstInSight());
      else return;
      event.preventDefault();
      return;
    }
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    const uuid = event.target.closest(".body > .row")?.dataset.uuid;
    if (!uuid || !step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.focusRow(this.shown.findIndex((vm) => vm.uuid === uuid) + step);
  }

  firstInSight() {
    return Math.max(0, Math.ceil(-this.body.getBoundingClientRect().top / this.rowHeight));
  }

  /** Go to a row by its place; also what the keys j and k do. */
  focusRow(at) {
    const place = Math.max(0, Math.min(this.shown.length - 1, at));
    const vm = this.shown[place];
    if (!vm) return;
    const room = this.grid.querySelector(".head").getBoundingClientRect().bottom;
    const top = this.body.getBoundingClientRect().top + place * this.rowHeight;
    const above = Math.max(room, 0);
    if (top < above) window.scrollBy({ top: top - above });
    else if (top + this.rowHeight > window.innerHeight) window.scrollBy({ top: top + this.rowHeight - window.innerHeight });
    this.draw();
    this.rows.get(vm.uuid)?.name.focus({ preventScroll: true });
  }

  move(step) {
    const uuid = document.activeElement?.closest?.(".body > .row")?.dataset.uuid;
    const at = uuid ? this.shown.findIndex((vm) => vm.uuid === uuid) + step : this.firstInSight();
    this.focusRow(at);
  }

  /** The VM that the keys mean: that of the row with the focus. */
  chosen() {
    const uuid = document.activeElement?.closest?.(".body > .row")?.dataset.uuid;
    return uuid ? (this.model.vms.get(uuid) ?? null) : null;
  }

  /** What a key does to the chosen VM. */
  steer(key) {
    const vm = this.chosen();
    if (!vm || !this.model.isOperator) return;
    if (key === "s" && canStart(vm)) steer.start(vm);
    if (key === "x" && canStop(vm)) steer.stop(vm);
    if (key === "u") steer.keepUp(vm);
  }
}

