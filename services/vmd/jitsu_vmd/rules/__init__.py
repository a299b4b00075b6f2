"""What vmd decides: plain code without sockets, clock or await."""
