"""The version, alone so that anything may import it."""

__version__ = "1.0.0"
