"""What the processes of Jitsu say to each other, and the scaffolding that they share."""

__version__ = "0.1.0"
