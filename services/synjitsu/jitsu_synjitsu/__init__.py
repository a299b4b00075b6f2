"""Synjitsu: it answers for virtual machines that are still booting."""

from jitsu_runtime.first_signals import hold

hold(__name__)
