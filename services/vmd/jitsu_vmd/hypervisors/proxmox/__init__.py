"""Proxmox VE: virtual machines and containers of a node or a cluster, by its API."""
