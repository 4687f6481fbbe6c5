"""Pictures: read, reduced, drawn on."""
