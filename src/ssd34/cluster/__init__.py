"""A job over many pictures, on one machine or on Ray: the same parts, the same content."""
