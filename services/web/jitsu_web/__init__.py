"""The HTTP API and the web page. An extra: nothing else needs it, and it runs only if `web.listen` is set."""

from jitsu_runtime.first_signals import hold

hold(__name__)
