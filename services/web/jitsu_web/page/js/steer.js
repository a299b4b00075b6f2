// What an operator can do to a VM: start, stop, keep up. One place, because the list, a VM's page and keys all offer it.

import { api } from "./api.js";
import { button, h } from "./dom.js";
import { agree, dialog } from "./dialogs.js";
import { attempt, note } from "./say.js";
import { duration } from "./words.js";

const HOUR = 3600;
const KEEPS = [
  { label: "1 hour", seconds: HOUR },
  { label: "2 hours", seconds: 2 * HOUR },
  { label: "8 hours", seconds: 8 * HOUR },
  { label: "1 day", seconds: 24 * HOUR },
  { label: "1 week", seconds: 168 * HOUR },
];

export async function start(vm) {
  note(`${vm.name} is being started`);
  await attempt(() => api.start(vm.name));
}

export async function stop(vm) {
  const text = "It is stopped now, whoever uses it. The next query for its name starts it again.";
  if (await agree(`Stop ${vm.name}?`, text, "Stop it", { kind: "danger" })) {
    await attempt(() => api.stop(vm.name), `${vm.name} has been asked to stop`);
  }
}

/** Ask for how long, then keep it up. */
export async function keepUp(vm) {
  const seconds = await dialog(`Keep ${vm.name} up`, (close) => [
    h("p", {}, vm.kept ? `Now: ${vm.kept}.` : "It is not stopped for being idle until then. If it is off, it is started."),
    h("div", { class: "choices" }, KEEPS.map(({ label, seconds: length }, at) => button(label, () => close(length), { autofocus: at === 0 }))),
    h("div", { class: "actions" }, vm.kept ? button("No longer keep it up", () => close(0)) : null, button("Cancel", () => close(null))),
  ]);
  if (seconds === null) return;
  if (seconds) await attempt(() => api.keep(vm.name, seconds), `${vm.name} is kept up for ${duration(seconds)}`);
  else await attempt(() => api.keepNoLonger(vm.name), `${vm.name} is no longer kept up`);
}
