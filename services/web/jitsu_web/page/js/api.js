// Every request to the HTTP API. Its contract is services/web/README.md.

const BASE = "/api/v1";

/** An answer that is not 2xx, or no answer at all (status 0). */
export class Problem extends Error {
  constructor(status, detail, hint = "", title = "") {
    super(detail);
    this.status = status;
    this.hint = hint;
    this.title = title;
  }
}

let csrf = "";

/** Note what changes have to repeat; the API gives it with the session. */
function remember(session) {
  csrf = session?.csrf ?? csrf;
  return session;
}

/** Return a path of the API from parts that may hold any character. A browser would follow the parts "." and "..", so
 * that a VM with such a name would lead a request elsewhere; these are refused. */
export function path(...parts) {
  if (parts.some((part) => /^\.{1,2}$/.test(part))) throw new Problem(400, "this name cannot be part of an address");
  return `${BASE}/${parts.map((part) => encodeURIComponent(part)).join("/")}`;
}

const branchPath = (branch) => path("config", "branches", branch);
const treePath = (branch, leaf) => path("config", "branches", branch, "tree", ...leaf.split("/"));

function query(values) {
  const wanted = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return wanted.length ? `?${new URLSearchParams(wanted)}` : "";
}

async function send(method, url, { body, headers = {}, signal } = {}) {
  const all = { Accept: "application/json", ...headers };
  if (method !== "GET" && csrf) all["X-CSRF-Token"] = csrf;
  if (body !== undefined) all["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(url, {
      method,
      headers: all,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      redirect: "error",
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "jitsu-web does not answer", "the page tries again by itself; does jitsu-web run?");
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

async function problemOf(response) {
  let found = {};
  try {
    found = await response.json();
  } catch {
    // A proxy answered, or nothing did.
  }
  const detail = typeof found.detail === "string" ? found.detail : `the answer was ${response.status}`;
  return new Problem(response.status, detail, typeof found.hint === "string" ? found.hint : "", found.title ?? "");
}

async function json(method, url, options) {
  const response = await send(method, url, options);
  const text = await response.text();
  return { value: text ? JSON.parse(text) : null, etag: response.headers.get("ETag") ?? "" };
}

const get = async (url, options) => (await json("GET", url, options)).value;
const post = async (url, body = {}, options = {}) => (await json("POST", url, { body, ...options })).value;

export const api = {
  signIn: async (token) => remember(await post(`${BASE}/session`, { token })),
  session: async () => remember(await get(`${BASE}/session`)),
  signOut: () => send("DELETE", `${BASE}/session`),

  /** Yield pages of VMs; the first is short, so that something can be shown at once. */
  async *vms() {
    let cursor = "";
    let limit = 100;
    do {
      const page = await get(`${BASE}/vms${query({ cursor, limit })}`);
      yield page.items;
      cursor = page.next ?? "";
      limit = 500;
    } while (cursor);
  },
  vm: (name) => get(path("vms", name)),
  start: (name) => post(path("vms", name, "start")),
  stop: (name) => post(path("vms", name, "stop")),
  keep: (name, seconds) => post(path("vms", name, "keep"), { for_s: seconds }),
  keepNoLonger: (name) => send("DELETE", path("vms", name, "keep")),
  why: (name) => get(path("vms", name, "why")),
  summons: (name) => get(path("vms", name, "summons")),
  history: (name) => get(path("vms", name, "history")),
  revertVm: (name, commit) => post(path("vms", name, "revert"), { to: commit }),
  services: () => get(`${BASE}/services`),

  branches: () => get(`${BASE}/config/branches`),
  createBranch: (name, start) => post(`${BASE}/config/branches`, { name, start }),
  deleteBranch: (name) => send("DELETE", branchPath(name)),
  /** Statistics are in the tree too, and change all the time, so only what a person configures is compared. */
  diff: (from, to) => get(`${BASE}/config/diff${query({ from, to, prefix: "jitsu/vm" })}`),
  /** With a commit, the branch must still be there: it is what was reviewed. */
  merge: (branch, into, commit = "") => post(`${BASE}/config/merge`, commit ? { branch, into, commit } : { branch, into }),
  configHistory: (branch) => get(`${BASE}/config/history${query({ branch })}`),
  revert: (commit) => post(`${BASE}/config/revert`, { to: commit }),
  /** Return what is below a path of a branch, and the commit that it was read from. */
  tree: async (branch, below = "") => {
    try {
      const { value, etag } = await json("GET", treePath(branch, below));
      return { leaves: value.leaves, commit: etag.replace(/^W\/|"/g, "") };
    } catch (problem) {
      if (problem.status === 404) return { leaves: {}, commit: "" };
      throw problem;
    }
  },
  setLeaf: (branch, leaf, value, commit) =>
    send("PUT", treePath(branch, leaf), { body: { value }, headers: ifMatch(commit) }),
  removeLeaf: (branch, leaf, commit) =>
    send("DELETE", treePath(branch, leaf), { headers: ifMatch(commit) }),

  /** Open the stream of events; returns the response, whose body never ends by itself. */
  events: (lastId, signal) =>
    send("GET", `${BASE}/events`, {
      headers: { Accept: "text/event-stream", ...(lastId ? { "Last-Event-ID": lastId } : {}) },
      signal,
    }),
};

function ifMatch(commit) {
  return commit ? { "If-Match": `"${commit}"` } : {};
}
