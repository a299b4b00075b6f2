"""The mock hypervisor: a process of its own, as libvirtd is, so that guests outlive vmd."""
