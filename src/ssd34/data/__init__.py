"""Pictures and annotations, in and out."""
