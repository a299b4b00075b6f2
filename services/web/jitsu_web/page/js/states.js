// The states of a VM, and what the page says about a VM in each of them. Pure.

import { duration, sentence, timeOf } from "./words.js";

/** Each state: how it is shown (the tone has a colour, and a shape for those who do not see colours), in their order. */
export const STATES = {
  failed: { tone: "bad", order: 0 },
  invalid: { tone: "bad", order: 1 },
  unknown: { tone: "warn", order: 2 },
  starting: { tone: "busy", order: 3 },
  booting: { tone: "busy", order: 4 },
  ready: { tone: "good", order: 5 },
  draining: { tone: "busy", order: 6 },
  stopping: { tone: "busy", order: 7 },
  suspended: { tone: "quiet", order: 8 },
  paused: { tone: "quiet", order: 9 },
  off: { tone: "quiet", order: 10 },
};

export function stateOf(vm) {
  return STATES[vm.state] ?? { tone: "warn", order: 2 };
}

/** Whether a summon would start it. */
export function canStart(vm) {
  return ["off", "suspended", "paused", "failed"].includes(vm.state);
}

/** Whether it can be asked to stop. */
export function canStop(vm) {
  return ["starting", "booting", "ready", "draining"].includes(vm.state);
}

/** Return when it stops and why not earlier, as in "stops in 4 min unless used; a connection keeps it up". */
export function idleWords(idle, now) {
  if (!idle) return "";
  const at = timeOf(idle.stops_at);
  const reason = (idle.reason ?? "").trim();
  if (at === null) return reason || "stays up";
  const left = at - now;
  const first = left > 1 ? `stops in ${duration(left)} unless used` : "stops any moment unless used";
  return reason ? `${first}; ${reason}` : first;
}

/** The steps that need no reason. */
const STEPS = {
  starting: "Starting",
  booting: "Booting; its clients are kept waiting",
  draining: "About to stop, unless it is used now",
  stopping: "Stopping",
};

/** Return the one sentence that a row says about a VM now. */
export function nowWords(vm, now) {
  if (vm.waits_for) return `Waits for ${vm.waits_for}`;
  const again = vm.retry_after_s > 0 ? `; can start again in ${duration(vm.retry_after_s)}` : "";
  if (["failed", "invalid", "unknown"].includes(vm.state)) return (vm.last_error || "The reason is not known") + again;
  if (vm.hold) return `Held: ${vm.hold}`;
  if (vm.state in STEPS) return STEPS[vm.state];
  if (vm.kept) return sentence(vm.kept);
  if (vm.state === "ready") return sentence(idleWords(vm.idle, now) || upWords(vm));
  if (vm.idle_s === null || vm.idle_s === undefined) return "No query yet";
  return `Last query ${duration(vm.idle_s + Math.max(0, now - (vm.readAt ?? now)))} ago`;
}

function upWords(vm) {
  return vm.uptime_s === null || vm.uptime_s === undefined ? "Up" : `Up for ${duration(vm.uptime_s)}`;
}

/** Return what a screen reader is told when a VM comes into another state; "" for the small steps between. */
export function announcement(before, after) {
  if (!before || before.state === after.state) return "";
  if (after.state === "failed") return `${after.name} has failed: ${after.last_error || "the reason is not known"}`;
  if (after.state === "ready" && before.state !== "draining") return `${after.name} is ready`;
  if (["off", "suspended", "paused"].includes(after.state)) return `${after.name} is ${after.state}`;
  return "";
}

/** Return the states that VMs are in with how many are, in the order in which they matter. */
export function countStates(vms) {
  const found = new Map();
  for (const vm of vms) found.set(vm.state, (found.get(vm.state) ?? 0) + 1);
  return [...found].sort(([a], [b]) => (STATES[a]?.order ?? 2) - (STATES[b]?.order ?? 2));
}

