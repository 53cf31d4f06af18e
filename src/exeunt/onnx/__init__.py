"""Running exported networks on ONNX Runtime, without PyTorch."""
