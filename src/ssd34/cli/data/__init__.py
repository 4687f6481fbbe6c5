"""The commands of ``ssd34 data``."""
