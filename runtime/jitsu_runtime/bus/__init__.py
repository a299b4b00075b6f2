"""The sockets of the bus. Nothing else in the suite imports zmq."""
