"""What the messages are about: VMs, their keys and states, and what can go wrong."""
