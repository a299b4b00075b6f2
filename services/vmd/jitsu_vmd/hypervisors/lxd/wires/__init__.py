"""The API of LXD and Incus: requests, operations, events, and which server answers them."""
