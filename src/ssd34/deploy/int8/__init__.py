"""Int8 files: calibration, plan, graph."""
