"""LXD and Incus: containers and virtual machines of one server, or of a cluster, by the API that both have."""
