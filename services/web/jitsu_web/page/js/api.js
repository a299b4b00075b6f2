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

/** Return a path of the API from parts that may hold any character. */
export function path(...parts) {
  return `${BASE}/${parts.map((part) => String(part).split("/").map(encodeURIComponent).join("/")).join("/")}`;
}

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
  deleteBranch: (name) => send("DELETE", path("config", "branches", name)),
  diff: (from, to) => get(`${BASE}/config/diff${query({ from, to })}`),
  merge: (branch, into, message) => post(`${BASE}/config/merge`, { branch, into, message }),
  configHistory: (branch) => get(`${BASE}/config/history${query({ branch })}`),
  revert: (commit) => post(`${BASE}/config/revert`, { to: commit }),
  /** Return what is below a path of a branch, and the commit that it was read from. */
  tree: async (branch, below = "") => {
    const { value, etag } = await json("GET", path("config", "branches", branch, "tree", below));
    return { leaves: value.leaves ?? value, commit: etag.replace(/^W\/|"/g, "") };
  },
  setLeaf: (branch, leaf, value, commit) =>
    send("PUT", path("config", "branches", branch, "tree", leaf), { body: { value }, headers: ifMatch(commit) }),
  removeLeaf: (branch, leaf, commit) =>
    send("DELETE", path("config", "branches", branch, "tree", leaf), { headers: ifMatch(commit) }),

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
