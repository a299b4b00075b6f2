// Keys for those who have no mouse in their hand. They can be switched off, because a person who dictates types letters.

import { h, button } from "./dom.js";
import { dialog } from "./dialogs.js";

const STORE = "jitsu.keys";
const HELP = [
  ["/", "go to the filter"],
  ["j, k or ↓, ↑", "next and previous VM"],
  ["Enter", "open the VM"],
  ["s", "start the VM"],
  ["x", "stop the VM, after a question"],
  ["u", "keep the VM up"],
  ["g v, g s, g b", "go to VMs, services, branches"],
  ["t", "change the colours"],
  ["?", "this help"],
  ["Esc", "clear the filter, or close a dialog"],
];

function areOn() {
  try {
    return localStorage.getItem(STORE) !== "off";
  } catch {
    return true;
  }
}

function switchTo(on) {
  try {
    localStorage.setItem(STORE, on ? "on" : "off");
  } catch {
    // Without storage they stay on.
  }
}

export function help() {
  return dialog("Keys", (close) => [
    h("dl", { class: "keys" }, HELP.map(([keys, what]) => h("div", {}, h("dt", {}, h("kbd", {}, keys)), h("dd", {}, what)))),
    h("label", { class: "tick" }, h("input", { type: "checkbox", checked: areOn(), onchange: (event) => switchTo(event.target.checked) }), "Letters are keys"),
    h("div", { class: "actions" }, button("Close", () => close(), { kind: "main", autofocus: true })),
  ]);
}

/** Listen to keys; `page()` returns what is shown now. */
export function listen(page) {
  let waitsForPlace = false;
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]") || isTyping(event.target) || !areOn()) return;
    const place = waitsForPlace ? { v: "#/vms", s: "#/services", b: "#/branches" }[event.key] : null;
    waitsForPlace = event.key === "g" && !waitsForPlace;
    if (place) location.hash = place;
    else if (!press(event.key, page())) return;
    event.preventDefault();
  });
}

function isTyping(target) {
  return target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName);
}

function press(key, page) {
  if (key === "?") help();
  else if (key === "t") document.querySelector(".theme")?.click();
  else if (key === "/" && page?.focusFilter) page.focusFilter();
  else if (["j", "k"].includes(key) && page?.move) page.move(key === "j" ? 1 : -1);
  else if (["s", "x", "u"].includes(key) && page?.steer) page.steer(key);
  else return false;
  return true;
}
