"""How a process of Jitsu runs: its settings, its sockets on the bus, its start and its end. It knows no service."""
