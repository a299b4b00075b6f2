"""What is decided about instances of LXD and Incus; pure."""
