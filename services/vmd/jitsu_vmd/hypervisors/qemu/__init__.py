"""QEMU without libvirt: each VM is a QEMU process of its own, driven by QMP. README.md has the life of one."""
