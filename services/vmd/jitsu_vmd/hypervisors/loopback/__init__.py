"""The mock hypervisor whose guests are on loopback."""
