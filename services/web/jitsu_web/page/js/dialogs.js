// Dialogs, on the browser's own <dialog>: it keeps the focus inside, closes with Escape, and gives the focus back.

import { h, button, append } from "./dom.js";

/**
 * Show a dialog. `build(close)` returns its content; the promise has what `close` was called with, null if the person
 * went away from it.
 */
export function dialog(title, build, { wide = false } = {}) {
  return new Promise((resolve) => {
    let result = null;
    const close = (value = null) => {
      result = value;
      box.close();
    };
    const heading = h("h2", { id: "dialog-title" }, title);
    const box = h("dialog", { class: wide ? "wide" : "", "aria-labelledby": "dialog-title" }, heading);
    append(box, [build(close)]);
    box.addEventListener("close", () => {
      box.remove();
      resolve(result);
    });
    box.addEventListener("click", (event) => event.target === box && close());
    document.body.append(box);
    box.showModal();
  });
}

/** Ask whether to do something, which is a text or nodes; the promise has true or false. */
export async function agree(title, what, yes, { kind = "main", wide = false } = {}) {
  const build = (close) => [
    typeof what === "string" ? h("p", {}, what) : what,
    h("div", { class: "actions" }, button("Cancel", () => close(null)), button(yes, () => close(true), { kind, autofocus: true })),
  ];
  return (await dialog(title, build, { wide })) === true;
}

/** Ask for a text; the promise has it, or null. `check` returns what is wrong with a text, or "". */
export function ask(title, { label, value = "", yes, text = "", check = () => "" }) {
  return dialog(title, (close) => {
    const wrong = h("p", { class: "wrong", role: "alert" });
    const input = h("input", { type: "text", value, required: true, autocomplete: "off", spellcheck: false, autofocus: true });
    const decide = (event) => {
      event.preventDefault();
      const fault = check(input.value.trim());
      wrong.textContent = fault;
      if (!fault) close(input.value.trim());
    };
    return h(
      "form",
      { onsubmit: decide },
      text ? h("p", {}, text) : null,
      h("label", { class: "field" }, label, input),
      wrong,
      h("div", { class: "actions" }, button("Cancel", () => close(null)), h("button", { class: "button main", type: "submit" }, yes)),
    );
  });
}
