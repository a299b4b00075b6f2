"""What jitsu-web decides; pure."""
