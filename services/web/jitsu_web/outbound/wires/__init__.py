"""Where events leave this process; nothing is decided here."""
