"""Packages of the format coreml."""
