"""The idle reaper of Jitsu: it decides that a virtual machine is idle."""
