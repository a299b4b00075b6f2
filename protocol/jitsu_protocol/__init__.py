"""The messages between the processes of Jitsu, and their meaning. All of it is pure: no socket, no clock, no file."""

__version__ = "0.1.0"
