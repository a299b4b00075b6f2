// One branch: its values, which can be changed; in what it differs from master; and its merge.

import { api } from "./api.js";
import { MASTER } from "./branches.js";
import { changesView } from "./changes.js";
import { agree } from "./dialogs.js";
import { leavesByVm, nameIn, summaryOf } from "./diff.js";
import { button, h, replace, setText } from "./dom.js";
import { wordsOf } from "./rows.js";
import { attempt, complain, note } from "./say.js";
import { Section } from "./section.js";
import { sentence } from "./words.js";

const GROUPS = 40;

export class BranchPage {
  /** `vm` is what the values are filtered by at first. */
  constructor(model, signal, name, vm) {
    this.model = model;
    this.name = name;
    this.commit = "";
    this.leaves = {};
    this.changes = [];
    this.mayEdit = model.isOperator;
    this.filter = h("input", { type: "search", value: vm, autocomplete: "off", spellcheck: false, "aria-label": "Filter values", placeholder: "VM, key, value …", oninput: () => this.values.show(this.drawValues()) });
    this.review = new Section(`How ${name} differs from ${MASTER}`, () => this.readDiff(), () => this.drawDiff());
    this.values = new Section("Values", () => this.readTree(), () => this.drawValues(), { actions: this.filter });
    const panels = name === MASTER ? [this.values.element] : [this.review.element, this.values.element];
    this.element = h("article", { class: "branch" }, h("a", { class: "back", href: "#/branches" }, "← All branches"), h("h1", {}, name), this.warning(), h("div", { class: "panels tall" }, panels));
    model.when("commit", (commit) => [this.name, MASTER].includes(commit.branch) && this.refresh(), signal);
    model.when("reset", () => this.refresh(), signal);
  }

  get title() {
    return this.name;
  }

  warning() {
    return this.name === MASTER ? h("p", { class: "hint" }, "This is what runs: a change here is followed at once. To have it reviewed first, make a branch.") : null;
  }

  entered() {
    this.refresh();
  }

  refresh() {
    if (this.name !== MASTER) this.review.refresh();
    if (!this.element.querySelector("form.edit")) this.values.refresh();
  }

  focusFilter() {
    this.filter.focus();
    this.filter.select();
  }

  async readDiff() {
    this.changes = (await api.diff(MASTER, this.name)).changes;
  }

  drawDiff() {
    const merge = this.mayEdit && this.changes.length ? button(`Merge into ${MASTER}`, (event) => this.merge(event.currentTarget), { kind: "main" }) : null;
    return [h("p", { class: "summary" }, `${sentence(summaryOf(this.changes))}.`), changesView(this.changes, (uuid) => this.nameOf(uuid)), merge ? h("div", { class: "actions" }, merge) : null];
  }

  nameOf(uuid) {
    const name = nameIn(this.leaves, uuid);
    return name === uuid ? this.model.nameOf(uuid) : name;
  }

  /**
   * The merge is first made on a branch of its own that begins at master: only so is it seen what it does when master
   * has moved on in the meantime, and whether the two contradict each other.
   */
  async merge(pressed) {
    pressed.disabled = true; // or a second press would begin a second trial
    const trial = `trial-${this.name}-${Date.now().toString(36)}`;
    let changes;
    const tried = await attempt(async () => {
      await api.createBranch(trial, MASTER);
      try {
        await api.merge(this.name, trial);
        ({ changes } = await api.diff(MASTER, trial));
      } finally {
        await api.deleteBranch(trial);
      }
    });
    pressed.disabled = false;
    pressed.focus();
    if (tried && (await this.agreed(changes)) && (await attempt(() => api.merge(this.name, MASTER, this.commit), `${this.name} is merged`))) {
      this.refresh();
    }
  }

  async agreed(changes) {
    const content = [
      h("p", {}, `${sentence(summaryOf(changes))} on ${MASTER}. Everything that runs follows at once.`),
      changesView(changes, (uuid) => this.nameOf(uuid)),
    ];
    return agree(`Merge ${this.name}?`, content, "Merge it", { wide: true });
  }

  async readTree() {
    const { leaves, commit } = await api.tree(this.name, "jitsu/vm");
    this.leaves = leaves;
    this.commit = commit;
  }

  drawValues() {
    const words = wordsOf(this.filter.value);
    const groups = leavesByVm(this.leaves, (uuid) => this.nameOf(uuid), words);
    if (groups.length === 0) return h("p", { class: "quiet" }, words.length ? "No value is like that." : "There are no values yet.");
    const more = groups.length - GROUPS;
    return h(
      "div",
      { class: "values" },
      groups.slice(0, GROUPS).map((group) => this.drawGroup(group, groups.length === 1 || words.length > 0)),
      more > 0 ? h("p", { class: "quiet" }, `… and ${more} more VMs: the filter finds them`) : null,
    );
  }

  drawGroup({ vm, name, changes }, isOpen) {
    return h(
      "details",
      { open: isOpen, "data-key": vm },
      h("summary", {}, h("span", { class: "message" }, name || "Other values"), h("span", { class: "quiet" }, ` ${changes.length}`)),
      h("ul", { class: "leaves" }, changes.map((leaf) => h("li", {}, this.drawLeaf(leaf)))),
    );
  }

  drawLeaf(leaf) {
    const line = h("div", { class: "leaf" });
    const value = h("span", { class: "value mono" }, leaf.value === "" ? "(empty)" : leaf.value);
    const edit = this.mayEdit ? button("Edit", () => this.edit(line, leaf), { class: "button small", "aria-label": `Edit ${leaf.key}`, "data-key": leaf.path }) : null;
    replace(line, h("span", { class: "mono key" }, leaf.key), value, edit);
    return line;
  }

  edit(line, leaf) {
    const input = h("input", { type: "text", value: leaf.value, "aria-label": leaf.key, autocomplete: "off", spellcheck: false });
    const wrong = h("p", { class: "wrong", role: "alert" });
    const back = () => {
      const again = this.drawLeaf(leaf);
      line.replaceWith(again);
      again.querySelector("button")?.focus();
    };
    const save = (event) => {
      event.preventDefault();
      this.save(leaf, input.value).then(back, (problem) => this.refused(problem, wrong, input));
    };
    const form = h(
      "form",
      { class: "edit", onsubmit: save, onkeydown: (event) => event.key === "Escape" && back() },
      h("span", { class: "mono key" }, leaf.key),
      input,
      h("button", { type: "submit", class: "button small main" }, "Save"),
      button("Remove", () => this.remove(leaf, back), { class: "button small" }),
      button("Cancel", back, { class: "button small" }),
      wrong,
    );
    replace(line, form);
    input.focus();
    input.select();
  }

  async save(leaf, value) {
    await api.setLeaf(this.name, leaf.path, value, this.commit);
    leaf.value = value;
    note(`${leaf.key} is ${value || "empty"} on ${this.name}`);
    await this.readTree();
    if (this.name !== MASTER) this.review.refresh();
  }

  refused(problem, wrong, input) {
    if (!("status" in problem)) throw problem;
    if (problem.status === 412) {
      setText(wrong, "The branch has changed in the meantime. What is there now has been read; look at it, and save again.");
      this.readTree().catch(complain);
    } else setText(wrong, [problem.message, problem.hint].filter(Boolean).join(". "));
    input.focus();
  }

  async remove(leaf, back) {
    if (!(await agree(`Remove ${leaf.key}?`, "Its default counts then, if it has one.", "Remove it", { kind: "danger" }))) return;
    if (await attempt(() => api.removeLeaf(this.name, leaf.path, this.commit), `${leaf.key} is removed`)) {
      back();
      this.refresh();
    }
  }
}
