// A VM's own page: what it does now, why, its summons as waterfalls, its history, its last error, its configuration.

import { api } from "./api.js";
import { changesView } from "./changes.js";
import { agree, ask } from "./dialogs.js";
import { append, button, h, replace, setAttribute, setText } from "./dom.js";
import { attempt } from "./say.js";
import { Section } from "./section.js";
import { spark, sparkWords } from "./spark.js";
import { canStart, canStop, nowWords, stateOf } from "./states.js";
import * as steer from "./steer.js";
import { badge } from "./vm_row.js";
import { totalOf, waterfall } from "./waterfall.js";
import { whyView } from "./why.js";
import { clockTime, duration, memoryTime, milliseconds, number, when } from "./words.js";
import { summaryOf } from "./diff.js";

const now = () => Date.now() / 1000;
const AGAIN_MS = 800;
/** Who uses a VM is no event, and dns and Synjitsu report it once a second. */
const WHY_AGAIN_MS = 5000;

export class VmPage {
  constructor(model, signal, word) {
    this.model = model;
    this.word = word;
    this.vm = model.find(word);
    this.state = badge();
    this.day = spark();
    this.words = h("p", { class: "now big" });
    this.power = button("Start", () => (canStart(this.vm) ? steer.start(this.vm) : steer.stop(this.vm)), { kind: "main" });
    this.keep = button("Keep up", () => steer.keepUp(this.vm));
    this.change = button("Change", () => this.startChange());
    this.facts = h("dl", { class: "pairs" });
    this.trouble = h("section", { class: "panel trouble", "aria-label": "Last error", hidden: true });
    this.sections = {
      why: new Section("Why", () => api.why(this.word), (report) => whyView(report, now()), { className: "why" }),
      summons: new Section("Summons", () => api.summons(this.word), (found) => this.drawSummons(found.items)),
      history: new Section("History", () => api.history(this.word), (found) => this.drawHistory(found.items)),
      configuration: new Section("Configuration", () => api.vm(this.word), (vm) => this.drawConfiguration(vm)),
    };
    this.element = this.build();
    this.watch(signal);
  }

  get title() {
    return this.vm?.name ?? this.word;
  }

  build() {
    const operates = this.model.isOperator;
    return h(
      "article",
      { class: "vm" },
      h("a", { class: "back", href: "#/vms" }, "← All VMs"),
      h(
        "header",
        { class: "top" },
        h("h1", {}, this.title),
        this.state.element,
        h("div", { class: "actions" }, operates ? [this.power, this.keep, this.change] : null),
      ),
      this.words,
      this.trouble,
      this.panels(),
    );
  }

  panels() {
    const { why, summons, history, configuration } = this.sections;
    this.dayWords = h("p", { class: "quiet" });
    const today = h(
      "section",
      { class: "panel", "aria-label": "Now" },
      h("header", {}, h("h2", {}, "Now")),
      h("div", { class: "day" }, this.day.picture, this.dayWords),
      this.facts,
    );
    return h(
      "div",
      { class: "parts" },
      h("div", { class: "main-part" }, why.element, h("div", { class: "panels" }, summons.element, history.element)),
      h("div", { class: "side-part" }, today, configuration.element),
    );
  }

  watch(signal) {
    const { model } = this;
    model.when("vm", ({ vm, before }) => this.isMine(vm) && this.changed(vm, before), signal);
    model.when("list", () => this.show(model.find(this.word)), signal);
    model.when("gone", ({ vm }) => this.isMine(vm) && this.gone(), signal);
    model.when("summon", (summon) => summon.vm === this.vm?.uuid && this.soon("summons"), signal);
    model.when("drain", (drain) => drain.uuid === this.vm?.uuid && this.soon("why"), signal);
    model.when("commit", (commit) => commit.vms?.includes(this.vm?.uuid) && this.soon("history", "configuration"), signal);
    model.when("reset", () => this.soon(...Object.keys(this.sections)), signal);
    const ticking = setInterval(() => this.tick(), 1000);
    const asking = setInterval(() => document.hidden || this.sections.why.refresh(), WHY_AGAIN_MS);
    signal.addEventListener("abort", () => {
      clearInterval(ticking);
      clearInterval(asking);
      clearTimeout(this.timer);
    });
  }

  entered() {
    this.show(this.vm);
    for (const section of Object.values(this.sections)) section.refresh();
  }

  isMine(vm) {
    return this.vm ? vm.uuid === this.vm.uuid : vm.name === this.word || vm.uuid === this.word;
  }

  changed(vm, before) {
    this.show(vm);
    if (before?.state !== vm.state) this.soon("why", "summons");
  }

  gone() {
    this.trouble.hidden = false;
    replace(this.trouble, h("p", {}, "This VM is no longer configured."));
    this.power.disabled = this.keep.disabled = this.change.disabled = true;
  }

  /** Read parts again in a moment, once for several events. */
  soon(...names) {
    this.waiting ??= new Set();
    for (const name of names) this.waiting.add(name);
    this.timer ||= setTimeout(() => {
      this.timer = 0;
      for (const name of this.waiting) this.sections[name].refresh();
      this.waiting.clear();
    }, AGAIN_MS);
  }

  show(vm) {
    if (!vm) return;
    this.vm = vm;
    this.state.show(vm);
    this.day.show(vm);
    setText(this.dayWords, sparkWords(vm));
    const starts = canStart(vm);
    setText(this.power, starts ? "Start" : "Stop");
    setAttribute(this.power, "class", starts ? "button main" : "button");
    this.power.disabled = !starts && !canStop(vm);
    this.showTrouble(vm);
    this.tick();
  }

  showTrouble(vm) {
    this.trouble.hidden = !vm.last_error;
    if (!vm.last_error || this.shownError === vm.last_error) return;
    this.shownError = vm.last_error;
    const hint = stateOf(vm).tone === "bad" ? "A summon tries it again; the latest summons below say how far it came." : "It has worked again since.";
    replace(this.trouble, h("h2", {}, "Last error"), h("p", { class: "mono" }, vm.last_error), h("p", { class: "hint" }, vm.hint || hint));
  }

  tick() {
    if (!this.vm) return;
    setText(this.words, nowWords(this.vm, now()));
    this.showFacts();
  }

  showFacts() {
    const { vm } = this;
    const passed = now() - (vm.readAt ?? now());
    const pairs = [
      ["Names", (vm.names ?? []).join(", ") || "–"],
      ["Address", vm.address || "–"],
      ["Host", vm.host],
      ["Up", vm.uptime_s === null ? "–" : `for ${duration(vm.uptime_s + passed)}`],
      ["Starts", number(vm.starts)],
      ["Queries", number(vm.queries)],
      ["Last query", vm.idle_s === null ? "–" : `${duration(vm.idle_s + passed)} ago`],
      ["Memory saved", memoryTime(vm.memory_saved_bytes_s)],
      ["Waits for", vm.waits_for],
      ["Held", vm.hold],
      ["Kept up", vm.kept],
    ].filter(([, text]) => text);
    if (this.facts.children.length !== pairs.length) {
      replace(this.facts, pairs.map(([name]) => h("div", {}, h("dt", {}, name), h("dd", {}))));
    }
    pairs.forEach(([, text], at) => setText(this.facts.children[at].lastChild, text));
  }

  drawSummons(summons) {
    if (summons.length === 0) return h("p", { class: "quiet" }, "It has not been summoned since its vmd started.");
    return summons.map((summon, at) => this.drawSummon(summon, at === 0));
  }

  drawSummon(summon, isOpen) {
    const failed = summon.outcome && !["ready", "done", "armed"].includes(summon.outcome);
    return h(
      "details",
      { class: "summon", open: isOpen, "data-key": summon.summon },
      h(
        "summary",
        {},
        h("span", { class: "number total" }, milliseconds(totalOf(summon))),
        h("span", { class: failed ? "bad" : null }, summon.outcome || "not over yet"),
        h("span", { class: "quiet" }, `${summon.trigger}${summon.joined ? `, ${summon.joined} joined` : ""}`),
        h("time", { class: "quiet", title: when(summon.ts, now()) }, clockTime(summon.ts, now())),
      ),
      waterfall(summon),
    );
  }

  drawHistory(commits) {
    if (commits.length === 0) return h("p", { class: "quiet" }, "Nothing has changed it since it was configured.");
    return h("ol", { class: "history" }, commits.map((commit, at) => h("li", {}, this.drawCommit(commit, commits[at + 1]))));
  }

  drawCommit(commit, before) {
    // A merge changes nothing that the commits which it merges have not changed already.
    const undo = before && this.model.isOperator && commit.changes?.length > 0;
    return h(
      "details",
      { "data-key": commit.id },
      h(
        "summary",
        {},
        h("span", { class: "message" }, commit.message.split("\n")[0] || "no message"),
        h("span", { class: "quiet" }, `${commit.author}, `, h("time", { title: when(commit.ts, now()) }, clockTime(commit.ts, now())), `, ${summaryOf(commit.changes ?? [])}`),
      ),
      changesView(commit.changes ?? [], (uuid) => this.model.nameOf(uuid)),
      undo ? h("p", {}, button("Go back to before this", () => this.revert(before, commit), { class: "button small" })) : null,
    );
  }

  async revert(to, commit) {
    const text = `${this.title} becomes as it was before “${commit.message.split("\n")[0]}” of ${clockTime(commit.ts, now())}. That is a new commit, which can be undone as well.`;
    if (await agree("Go back?", text, "Go back")) {
      await attempt(() => api.revertVm(this.word, to.id), `${this.title} is as it was before`);
    }
  }

  drawConfiguration(vm) {
    const keys = Object.entries(vm.configuration ?? {});
    if (keys.length === 0) return h("p", { class: "quiet" }, "Its configuration cannot be used; the last error says why.");
    const list = h("dl", { class: "pairs mono" });
    append(list, keys.sort().map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, [value].flat().join(", ")))));
    return list;
  }

  /** A change begins on a branch, so that it can be reviewed before anything follows it. */
  async startChange() {
    const name = await ask(`Change ${this.title}`, {
      label: "Name of the branch",
      value: `${this.title}-change`.replace(/[^A-Za-z0-9._-]/g, "-"),
      yes: "Make the branch",
      text: "Changes are made on a branch. Nothing follows them until you have reviewed and merged it.",
    });
    if (name && (await attempt(() => this.branchIfAbsent(name)))) {
      location.hash = `#/branches/${encodeURIComponent(name)}?vm=${encodeURIComponent(this.title)}`;
    }
  }

  async branchIfAbsent(name) {
    const known = (await api.branches()).items;
    if (!known.some((branch) => branch.name === name)) await api.createBranch(name, "master");
  }
}

