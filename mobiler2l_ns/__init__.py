"""MobileR2L inside nerfstudio: a capture becomes a neural light field that runs in real time on a phone."""

__version__ = "0.1.0"
