"""The operator's tool of Jitsu."""
