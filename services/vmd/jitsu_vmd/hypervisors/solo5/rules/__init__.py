"""Decisions about unikernels: pure, without sockets, files or a clock."""
