"""Packages of the format snapml."""
