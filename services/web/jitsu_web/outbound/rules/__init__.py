"""What is decided about events for others; pure."""
