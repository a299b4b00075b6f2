"""How messages travel: their encoding, and the rules of requests and feeds, without sockets."""
