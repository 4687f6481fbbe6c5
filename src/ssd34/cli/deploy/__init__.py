"""The commands that make and check files."""
