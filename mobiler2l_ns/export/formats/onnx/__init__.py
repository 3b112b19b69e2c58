"""Packages of the format onnx."""
