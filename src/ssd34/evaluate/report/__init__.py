"""The report: one HTML page that needs nothing else, its plots and their numbers."""
