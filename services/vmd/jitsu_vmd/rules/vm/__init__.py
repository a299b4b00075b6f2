"""The machine of one VM (summon.py has its table): its parts, and what it does because of each event."""
