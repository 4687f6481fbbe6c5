"""The detector's arithmetic: NumPy only, no files, no state."""
