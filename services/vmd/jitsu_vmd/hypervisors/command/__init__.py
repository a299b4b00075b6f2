"""command: VMs that are started, stopped and looked at by commands of this host. README.md has the life of one."""
