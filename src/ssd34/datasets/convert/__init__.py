"""Data sets in other forms."""
