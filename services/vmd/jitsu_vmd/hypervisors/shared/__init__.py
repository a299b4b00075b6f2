"""What several kinds of hypervisor use: how a VM is described, what this host has, threads, commands."""
