"""The DNS front-end of Jitsu."""

from jitsu_runtime.first_signals import hold

hold(__name__)
