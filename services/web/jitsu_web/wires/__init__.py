"""How jitsu-web reaches the outside: the bus, HTTP, files."""
