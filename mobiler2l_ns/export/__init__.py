"""Packages for phones and browsers. Nothing outside this folder knows Core ML or ONNX."""
