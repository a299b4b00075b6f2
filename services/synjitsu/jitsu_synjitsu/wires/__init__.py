"""Where synjitsu touches the world; nothing is decided here."""
