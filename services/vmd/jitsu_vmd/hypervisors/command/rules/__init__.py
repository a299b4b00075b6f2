"""Decisions: what is run, what its output means, and what is believed of a VM."""
