"""``ssd34 train``."""
