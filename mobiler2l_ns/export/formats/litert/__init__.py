"""Packages of the format litert."""
