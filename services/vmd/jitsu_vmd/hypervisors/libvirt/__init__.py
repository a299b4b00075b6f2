"""libvirt: domains of any URI."""
