"""What reaper decides: plain code without sockets, clock or await."""
