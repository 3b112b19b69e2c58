"""Packages of the format web."""
