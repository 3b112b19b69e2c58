"""What ncnn packages need besides this package's own dependencies."""

from __future__ import annotations

from mobiler2l_ns.export.extra import Extra

EXTRA = Extra(("ncnn", "pnnx"), "pip install '.[ncnn]' in this project's checkout")
