"""Packages of the format ncnn."""
