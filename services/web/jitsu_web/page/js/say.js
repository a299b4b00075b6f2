// Messages to the person: for a screen reader in the live regions, and for eyes in notes at the bottom of the page.

import { h, button } from "./dom.js";

const STAYS_S = 6;
let notes = null;

/** Read something out when nothing else is being read. */
export function announce(text) {
  const region = document.getElementById("polite");
  if (region && text) region.textContent = text;
}

/** Show that something was done. */
export function note(text) {
  announce(text);
  show(h("p", {}, text), "done", STAYS_S);
}

/** Show what went wrong, and what to do about it. It stays until it is put away. */
export function complain(problem) {
  if (problem.name === "AbortError") return;
  const hint = problem.hint ?? "";
  document.getElementById("urgent").textContent = hint ? `${problem.message}. ${hint}` : problem.message;
  show([h("p", {}, problem.message), hint ? h("p", { class: "hint" }, hint) : null], "wrong", 0);
}

/** Do something and complain if it fails; returns whether it was done. */
export async function attempt(action, done = "") {
  try {
    await action();
  } catch (error) {
    if (!("status" in error)) throw error;
    complain(error);
    return false;
  }
  if (done) note(done);
  return true;
}

function show(content, kind, seconds) {
  notes ??= document.body.appendChild(h("div", { class: "notes" }));
  const close = () => one.remove();
  const one = h("div", { class: `note ${kind}` }, h("div", {}, content), button("×", close, { kind: "bare", "aria-label": "Put this message away" }));
  notes.append(one);
  while (notes.children.length > 4) notes.firstChild.remove();
  if (seconds) setTimeout(close, seconds * 1000);
}
