"""The mock hypervisor whose guests are on a bridge."""
