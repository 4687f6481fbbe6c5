"""ONNX files: from weights to a published artifact."""
