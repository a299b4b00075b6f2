"""The commands as processes, what is written down about them, and the sections that they belong to."""
