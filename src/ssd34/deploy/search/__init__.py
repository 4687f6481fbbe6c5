"""The int8 file that is accurate and fast enough, searched and proven."""
