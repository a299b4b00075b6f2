"""How docker reaches its engine."""
