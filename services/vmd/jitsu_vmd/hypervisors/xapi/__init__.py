"""XAPI: VMs of a pool of XenServer or XCP-ng."""
