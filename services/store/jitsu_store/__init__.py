"""The state tree of Jitsu: a Git repository behind an rpc and a feed."""

from jitsu_runtime.first_signals import hold

hold(__name__)
