"""Decisions about QEMU processes: pure, without sockets, files or a clock."""
