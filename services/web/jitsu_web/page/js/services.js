// The services and the replicas of dns: which answer, which do not, and what each says about itself.

import { api } from "./api.js";
import { h } from "./dom.js";
import { Section } from "./section.js";
import { count, duration, listed } from "./words.js";

/** The roles in the order in which a query meets them, and what each does. */
const ROLES = [
  ["dns", "answers queries, and asks for VMs to be started"],
  ["synjitsu", "answers for a VM while it boots, and sees its connections"],
  ["vmd", "starts and stops VMs"],
  ["reaper", "decides which VM is idle"],
  ["store", "keeps the configuration and its history"],
  ["web", "this page and its API"],
];

/** Return the services by role, in the order of ROLES; roles that are not known come last. Pure. */
export function byRole(services) {
  const known = ROLES.map(([role]) => role);
  const others = [...new Set(services.map((each) => each.role))].filter((role) => !known.includes(role));
  return [...known, ...others]
    .map((role) => ({ role, does: (ROLES.find(([each]) => each === role) ?? ["", ""])[1], services: services.filter((each) => each.role === role) }))
    .filter((group) => group.services.length > 0);
}

/** Return how they are in one sentence. Pure. */
export function healthWords(services) {
  const silent = services.filter((each) => !each.answers).map((each) => each.name);
  if (silent.length === 0) return `All ${count(services.length, "process", "processes")} answer.`;
  return `${listed(silent)} ${silent.length === 1 ? "does" : "do"} not answer.`;
}

export class Services {
  constructor(model, signal) {
    this.services = new Map();
    this.section = new Section("Services and replicas", () => this.read(), () => this.draw());
    this.element = h("article", { class: "services" }, h("h1", {}, "Services"), this.section.element);
    this.section.element.firstChild.classList.add("unseen");
    model.when("service", (service) => this.changed(service), signal);
    model.when("reset", () => this.section.refresh(), signal);
  }

  get title() {
    return "Services";
  }

  entered() {
    this.section.refresh();
  }

  async read() {
    const { items } = await api.services();
    this.services = new Map(items.map((each) => [each.name, each]));
  }

  changed(service) {
    this.services.set(service.name, service);
    this.section.show(this.draw());
  }

  draw() {
    const all = [...this.services.values()];
    const ill = all.some((each) => !each.answers);
    return [
      h("p", { class: "health", role: "status", "data-tone": ill ? "bad" : "good" }, h("span", { class: "mark", "aria-hidden": "true" }), healthWords(all)),
      h("ol", { class: "map" }, byRole(all).map((group) => this.drawRole(group))),
    ];
  }

  drawRole({ role, does, services }) {
    return h(
      "li",
      { class: "role" },
      h("h3", {}, role),
      h("p", { class: "quiet" }, does),
      h("ul", {}, services.map((service) => this.drawService(service))),
    );
  }

  drawService(service) {
    const facts = [
      service.version ? `version ${service.version}` : "",
      service.uptime_s === null || service.uptime_s === undefined ? "" : `up for ${duration(service.uptime_s)}`,
      service.lag_s === null || service.lag_s === undefined ? "" : `heard ${duration(service.lag_s)} ago`,
    ].filter(Boolean);
    return h(
      "li",
      { class: "service", "data-tone": service.answers ? "good" : "bad" },
      h("span", { class: "mark", "aria-hidden": "true" }),
      h("div", {}, h("strong", {}, service.name), h("span", { class: "says" }, service.answers ? " answers" : " does not answer"), h("p", { class: "quiet" }, facts.join(", ")), (service.notes ?? []).map((note) => h("p", { class: "quiet" }, note))),
    );
  }
}
