"""Synjitsu: it answers for virtual machines that are still booting."""
