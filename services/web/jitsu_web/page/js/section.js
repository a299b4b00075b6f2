// A part of a page that is read by itself: it says so while it waits, and when it fails, with a way to try again.

import { h, button, replace } from "./dom.js";

export class Section {
  /** `read` returns what `draw` makes content of. */
  constructor(title, read, draw, { className = "", actions = null } = {}) {
    this.read = read;
    this.draw = draw;
    this.body = h("div", { class: "content" }, h("p", { class: "quiet" }, "Reading …"));
    this.element = h("section", { class: `panel ${className}`, "aria-label": title }, h("header", {}, h("h2", {}, title), actions), this.body);
    this.reading = 0;
  }

  /** Read it again; the last of several readings counts. */
  async refresh() {
    this.reading += 1;
    const mine = this.reading;
    this.body.setAttribute("aria-busy", "true");
    let content;
    try {
      const data = await this.read();
      if (mine !== this.reading) return;
      content = this.draw(data);
    } catch (error) {
      if (!("status" in error)) throw error;
      if (mine !== this.reading) return;
      content = failure(error, () => this.refresh());
    }
    this.show(content);
  }

  /** Put content in; what was unfolded and what had the focus stays so, by its key. */
  show(content) {
    this.body.removeAttribute("aria-busy");
    const open = new Set([...this.body.querySelectorAll("details[open][data-key]")].map((each) => each.dataset.key));
    const focused = this.body.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    replace(this.body, content);
    for (const each of this.body.querySelectorAll("details[data-key]")) if (open.has(each.dataset.key)) each.open = true;
    if (focused) this.body.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }
}

/** Say what went wrong, where the content would be. */
export function failure(problem, again) {
  return h(
    "div",
    { class: "failure", role: "alert" },
    h("p", {}, problem.message),
    problem.hint ? h("p", { class: "hint" }, problem.hint) : null,
    again ? button("Try again", again, { class: "button small" }) : null,
  );
}
