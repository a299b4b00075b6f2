"""libxl: domains of this dom0, by way of xl(1)."""
