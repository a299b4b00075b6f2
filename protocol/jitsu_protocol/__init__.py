"""What the processes of Jitsu say to each other. All of it is pure: no socket, no clock, no file."""

__version__ = "0.1.0"
