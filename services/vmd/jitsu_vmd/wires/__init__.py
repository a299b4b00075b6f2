"""Where vmd touches the world; nothing is decided here."""
