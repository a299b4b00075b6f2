"""Where store touches the world; nothing is decided here."""
