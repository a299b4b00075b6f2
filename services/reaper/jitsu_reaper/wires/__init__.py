"""Where reaper touches the world; nothing is decided here."""
