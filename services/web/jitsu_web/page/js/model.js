// What the page knows: all VMs, by uuid, and who wants to hear of changes. Nothing here draws.

export class Model extends EventTarget {
  constructor() {
    super();
    this.vms = new Map();
    this.complete = false;
    this.session = null;
    this.reading = null;
  }

  get isOperator() {
    return this.session?.role === "operator";
  }

  list() {
    return [...this.vms.values()];
  }

  /** Return the VM with a name, a uuid or a DNS name. */
  find(word) {
    if (this.vms.has(word)) return this.vms.get(word);
    const all = this.list();
    return all.find((vm) => vm.name === word) ?? all.find((vm) => (vm.names ?? []).includes(word)) ?? null;
  }

  nameOf(uuid) {
    return this.vms.get(uuid)?.name ?? uuid;
  }

  /**
   * Take a VM as it is now. Events that come while the list is being read are newer than what the list has of the same
   * VM, so the list does not overwrite those.
   */
  put(vm, fromList = false) {
    if (fromList && this.reading?.has(vm.uuid)) return;
    if (!fromList) this.reading?.add(vm.uuid);
    const before = this.vms.get(vm.uuid) ?? null;
    vm.readAt = Date.now() / 1000;
    this.vms.set(vm.uuid, vm);
    if (!fromList) this.tell("vm", { vm, before });
  }

  remove(uuid) {
    this.reading?.add(uuid);
    const before = this.vms.get(uuid);
    if (this.vms.delete(uuid)) this.tell("gone", { vm: before });
  }

  /** Read the whole list; what is not in it is gone. `pages` yields lists of VMs. */
  async readAll(pages) {
    const seen = new Set();
    const newer = new Set();
    this.reading = newer;
    for await (const items of pages) {
      if (this.reading !== newer) return; // Another reading has begun.
      for (const vm of items) {
        seen.add(vm.uuid);
        this.put(vm, true);
      }
      this.tell("list", {});
    }
    for (const uuid of [...this.vms.keys()]) if (!seen.has(uuid) && !newer.has(uuid)) this.vms.delete(uuid);
    this.reading = null;
    this.complete = true;
    this.tell("list", {});
  }

  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** Call `action` for events of a type until `signal` says to stop. */
  when(type, action, signal) {
    this.addEventListener(type, (event) => action(event.detail), { signal });
  }
}
