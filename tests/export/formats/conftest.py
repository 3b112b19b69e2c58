"""What the tests of web pages share: a browser, and a page in it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from web_page import make_rgba_student, write_page

from mobiler2l_ns.export.formats.web.chromium import Chromium


@pytest.fixture(scope="module")
def browser():
    with Chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A page of an RGBA student, its folder and its address."""
    student, folder = make_rgba_student(), tmp_path_factory.mktemp("web") / "page"
    server = write_page(student, folder)
    yield SimpleNamespace(student=student, folder=folder, address=server.address)
    server.shutdown()
