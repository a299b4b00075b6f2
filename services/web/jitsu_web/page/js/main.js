// Begins: who is signed in, which page is shown, and what the stream of events leads to.

import { api } from "./api.js";
import { replace } from "./dom.js";
import * as keys from "./keys.js";
import { Live } from "./live.js";
import { Model } from "./model.js";
import { announce, attempt } from "./say.js";
import { Shell } from "./shell.js";
import { signIn } from "./signin.js";
import { VmList } from "./vm_list.js";

const app = document.getElementById("app");
const model = new Model();
let shell = null;
let page = null;
let leaving = null;
let wasLost = false;

const live = new Live({
  event: ({ type, data }) => happened(type, data),
  resumed: () => {
    if (!model.complete && !model.reading) readAll();
  },
  state: (name, seconds) => {
    shell?.showConnection(name, seconds);
    if (name === "lost" && !wasLost) announce("The connection is lost. What you see may be out of date.");
    if (name === "live" && wasLost) announce("The connection is back.");
    if (name !== "connecting") wasLost = name === "lost";
  },
  signedOut: () => showSignIn("Your session has ended."),
});

function happened(type, data) {
  if (type === "vm") model.put(data);
  else if (type === "gone") model.remove(data.uuid);
  else if (type === "reset") readAll();
  else model.tell(type, data);
}

/** Read all VMs; what else is on the page reads itself again at "reset". */
async function readAll() {
  model.tell("reset", {});
  await attempt(() => model.readAll(api.vms()));
}

/** Return a part of the hash; one that somebody has typed wrongly stays as it is. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Each page: the hash that it has, and how it is loaded. Only the list comes with the first download. */
const PAGES = [
  [/^#\/vms\/(.+)$/, async (signal, name) => new (await import("./vm_page.js")).VmPage(model, signal, decoded(name))],
  [/^#\/services$/, async (signal) => new (await import("./services.js")).Services(model, signal)],
  [/^#\/branches\/(.+?)(?:\?vm=(.*))?$/, async (signal, name, vm) => new (await import("./branch.js")).BranchPage(model, signal, decoded(name), decoded(vm ?? ""))],
  [/^#\/branches$/, async (signal) => new (await import("./branches.js")).Branches(model, signal)],
  [/^/, async (signal) => new VmList(model, signal)],
];

async function showPage() {
  if (!shell) return;
  const hash = location.hash || "#/vms";
  const isFirst = page === null;
  leaving?.abort();
  const leave = new AbortController();
  leaving = leave;
  const [pattern, load] = PAGES.find(([each]) => each.test(hash));
  const next = await load(leave.signal, ...pattern.exec(hash).slice(1));
  if (leave.signal.aborted) return;
  page = next;
  replace(shell.main, page.element);
  shell.main.dataset.place = hash;
  shell.at(hash);
  document.title = `${page.title} · Jitsu`;
  window.scrollTo({ top: 0 });
  if (!isFirst) shell.main.focus({ preventScroll: true });
  page.entered?.();
}

function showSignIn(why = "") {
  live.stop();
  leaving?.abort();
  shell = page = null;
  model.vms.clear();
  model.complete = false;
  const form = signIn(begin, why);
  document.title = "Sign in · Jitsu";
  replace(app, form.element);
  form.entered();
}

async function signOut() {
  if (await attempt(() => api.signOut())) showSignIn("You have signed out.");
}

function begin(session) {
  model.session = session;
  shell = new Shell(session, { retry: () => live.retry(), signOut, help: keys.help });
  replace(app, shell.element);
  showPage();
  live.start();
  performance.mark("jitsu-interactive");
}

window.addEventListener("hashchange", showPage);
keys.listen(() => page);
try {
  begin(await api.session());
} catch (error) {
  if (!("status" in error)) throw error;
  showSignIn(error.status === 401 ? "" : [error.message, error.hint].filter(Boolean).join(". "));
}
