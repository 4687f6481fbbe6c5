"""The published network in torch."""
