"""Where dns touches the world; nothing is decided here."""
