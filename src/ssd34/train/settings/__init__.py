"""What a training is told."""
