"""The network as an ONNX graph, written and read by one list of layers."""
