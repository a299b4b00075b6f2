"""QEMU without libvirt: each VM is a QEMU process of its own, driven by QMP. rules/life.py has the life of one."""
