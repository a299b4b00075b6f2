"""The DNS front-end of Jitsu."""
