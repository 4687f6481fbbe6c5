"""Accuracy: COCO box metrics."""
