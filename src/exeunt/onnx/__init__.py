"""Exported networks on ONNX Runtime, without PyTorch."""
