"""The VM daemon of Jitsu: it summons virtual machines."""

from jitsu_runtime.first_signals import hold

hold(__name__)
