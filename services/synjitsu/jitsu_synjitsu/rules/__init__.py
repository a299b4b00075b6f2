"""What synjitsu decides: plain code without sockets, clock or await."""
