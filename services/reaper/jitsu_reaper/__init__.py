"""The idle reaper of Jitsu: it decides that a virtual machine is idle."""

from jitsu_runtime.first_signals import hold

hold(__name__)
