"""Films, streams and cameras: frames decoded ahead, objects followed, films written."""
