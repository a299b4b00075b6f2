"""What the store decides: plain code without sockets, clock or await."""
