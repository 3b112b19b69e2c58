"""What LiteRT packages need besides this package's own dependencies."""

from __future__ import annotations

from mobiler2l_ns.export.extra import Extra

EXTRA = Extra(
    ("litert_torch", "ai_edge_litert"),
    # Not an extra of pip's: what LiteRT's packages say they need contradicts what nerfstudio's need, though all run
    # together.
    "pip install --no-deps -r requirements-litert.txt, a file in this project's repository",
)
