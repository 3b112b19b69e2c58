"""Write docs/clients.md from the manifest of an example, docs/clients.json.

python scripts/write_clients_page.py
"""

from __future__ import annotations

import json
from pathlib import Path

from mobiler2l_ns.export.clients.page import page

DOCS = Path(__file__).resolve().parent.parent / "docs"


def clients_page() -> str:
    """The page, as it is to stand in docs/clients.md."""
    return page(json.loads((DOCS / "clients.json").read_text(encoding="utf8")), example=True)


if __name__ == "__main__":
    (DOCS / "clients.md").write_text(clients_page(), encoding="utf8")
