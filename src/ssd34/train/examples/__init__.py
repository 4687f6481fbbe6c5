"""What a training step learns from: pictures varied, objects matched to default boxes."""
