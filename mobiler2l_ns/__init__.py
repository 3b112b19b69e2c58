"""MobileR2L inside nerfstudio: a capture becomes a neural light field that runs in real time on a phone."""

from mobiler2l_ns import released_names

__version__ = "0.1.0"

released_names.install()
