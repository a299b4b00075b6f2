// Changes of the state tree, as people read them. Pure.

/** Return "added", "removed", "changed" or "same" for a change {path, old, value}. */
export function kindOf(change) {
  const before = change.old ?? null;
  const after = change.value ?? null;
  if (before === after) return "same";
  if (before === null) return "added";
  return after === null ? "removed" : "changed";
}

const VM_PATH = /^jitsu\/vm\/([^/]+)\/(.+)$/;

/** Return whose a path is and what it is below that: {vm: uuid or "", key}. */
export function partsOf(path) {
  const found = VM_PATH.exec(path.replace(/^\//, ""));
  return found ? { vm: found[1], key: found[2] } : { vm: "", key: path };
}

/** Return changes by VM, in the order of their names: [{vm, name, changes: [{key, path, old, value, kind}]}]. */
export function byVm(changes, nameOf) {
  const groups = new Map();
  for (const change of changes) {
    const { vm, key } = partsOf(change.path);
    if (!groups.has(vm)) groups.set(vm, { vm, name: vm ? nameOf(vm) : "", changes: [] });
    groups.get(vm).changes.push({ ...change, key, kind: kindOf(change) });
  }
  return [...groups.values()].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
}

/** Return leaves (path to value) by VM, like changes; `words` are looked for in names, paths and values. */
export function leavesByVm(leaves, nameOf, words) {
  const entries = Object.entries(leaves).map(([path, value]) => ({ path, old: value, value }));
  const groups = byVm(entries, nameOf);
  if (words.length === 0) return groups;
  return groups
    .map((group) => ({
      ...group,
      changes: group.changes.filter((leaf) => {
        const text = `${group.name}\n${leaf.path}\n${leaf.value}`.toLowerCase();
        return words.every((word) => text.includes(word));
      }),
    }))
    .filter((group) => group.changes.length > 0);
}

/** Return the name of a VM from its leaves, as the command line does: its name, or its first DNS name. */
export function nameIn(leaves, uuid) {
  const start = `jitsu/vm/${uuid}/`;
  const given = leaves[`${start}config/name/0`] ?? leaves[`${start}config/dns/0`];
  if (given) return given.replace(/^\*\./, "");
  const names = Object.keys(leaves).filter((path) => path.startsWith(`${start}dns/`) && path.endsWith("/ttl"));
  return names.length ? names.sort()[0].slice(start.length + 4, -4) : uuid;
}

/** Return what a set of changes does in one sentence: "3 values changed, 1 added". */
export function summaryOf(changes) {
  const counted = { changed: 0, added: 0, removed: 0 };
  for (const change of changes) if (kindOf(change) in counted) counted[kindOf(change)] += 1;
  const parts = Object.entries(counted).filter(([, amount]) => amount > 0);
  if (parts.length === 0) return "nothing differs";
  return parts.map(([kind, amount], at) => (at ? `${amount} ${kind}` : `${amount} value${amount > 1 ? "s" : ""} ${kind}`)).join(", ");
}
