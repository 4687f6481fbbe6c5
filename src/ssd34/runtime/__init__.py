"""ONNX files to detections."""
