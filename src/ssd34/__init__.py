"""ssd34: a Single Stage Detector, from training data to a proven file on a CPU."""

__version__ = "0.1.0"
