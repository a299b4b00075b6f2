// All branches of the configuration, and the history of master.

import { api } from "./api.js";
import { agree, ask } from "./dialogs.js";
import { button, h } from "./dom.js";
import { attempt } from "./say.js";
import { Section } from "./section.js";
import { clockTime, when } from "./words.js";

export const MASTER = "master";
const now = () => Date.now() / 1000;

export class Branches {
  constructor(model, signal) {
    this.model = model;
    const create = model.isOperator ? button("New branch", () => this.create(), { class: "button small" }) : null;
    this.list = new Section("Branches", () => api.branches(), (found) => this.draw(found.items), { actions: create });
    this.history = new Section("Latest changes of master", () => api.configHistory(MASTER), (found) => this.drawHistory(found.items));
    this.element = h("article", { class: "branches" }, h("h1", {}, "Branches"), h("div", { class: "panels" }, this.list.element, this.history.element));
    model.when("commit", () => this.refresh(), signal);
    model.when("reset", () => this.refresh(), signal);
  }

  get title() {
    return "Branches";
  }

  entered() {
    this.refresh();
  }

  refresh() {
    this.list.refresh();
    this.history.refresh();
  }

  draw(branches) {
    const sorted = [...branches].sort((a, b) => (b.name === MASTER) - (a.name === MASTER) || b.commit.ts - a.commit.ts);
    return h("ul", { class: "lines" }, sorted.map((branch) => this.drawBranch(branch)));
  }

  drawBranch({ name, commit }) {
    const may = this.model.isOperator && name !== MASTER;
    return h(
      "li",
      {},
      h(
        "div",
        { class: "grow" },
        h("a", { class: "name", href: `#/branches/${encodeURIComponent(name)}`, "data-key": name }, name),
        name === MASTER ? h("span", { class: "tag" }, "what runs") : null,
        h("p", { class: "quiet" }, `${commit.message.split("\n")[0]}, ${commit.author}, ${when(commit.ts, now())}`),
      ),
      may ? button("Delete", () => this.remove(name), { class: "button small", "aria-label": `Delete the branch ${name}` }) : null,
    );
  }

  drawHistory(commits) {
    if (commits.length === 0) return h("p", { class: "quiet" }, "There are no commits yet.");
    return h(
      "ol",
      { class: "lines" },
      commits.map((commit) =>
        h("li", {}, h("div", { class: "grow" }, h("span", { class: "message" }, commit.message.split("\n")[0]), h("p", { class: "quiet" }, `${commit.author}, ${clockTime(commit.ts, now())}, `, h("code", {}, commit.id.slice(0, 10))))),
      ),
    );
  }

  async create() {
    const name = await ask("New branch", { label: "Name", yes: "Make it", text: "It begins as master is now. Nothing follows a branch until it is merged." });
    if (name && (await attempt(() => api.createBranch(name, MASTER)))) location.hash = `#/branches/${encodeURIComponent(name)}`;
  }

  async remove(name) {
    if (await agree(`Delete ${name}?`, "What was changed on it and not merged is gone.", "Delete it", { kind: "danger" })) {
      await attempt(() => api.deleteBranch(name), `${name} is deleted`);
      this.refresh();
    }
  }
}
