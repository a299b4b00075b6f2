"""What dns decides: plain code without sockets, clock or await."""
