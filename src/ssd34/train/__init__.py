"""Training: augmentation, matching, loss, schedule and the loop."""
