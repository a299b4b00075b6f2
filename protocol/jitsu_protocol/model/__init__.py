"""The subjects of the messages: VMs, their keys and states, and errors."""
