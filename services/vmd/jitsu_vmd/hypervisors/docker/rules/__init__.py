"""What docker decides; pure."""
