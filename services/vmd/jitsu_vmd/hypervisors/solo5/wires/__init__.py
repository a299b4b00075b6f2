"""What touches the world: taps, processes, files."""
