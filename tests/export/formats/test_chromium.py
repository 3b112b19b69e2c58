"""The browser that proves web packages leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.formats.web import chromium
from mobiler2l_ns.export.formats.web.chromium import Chromium, PageError, find_chromium

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")


def wait_until_gone(process: int, seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        # An orphan whose new parent has not asked for it yet is gone as well.
        if open(f"/proc/{process}/stat").read().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not os.path.exists("/proc"), reason="looks into /proc")
def test_a_killed_program_takes_its_browser_along():
    script = """if True:
        from mobiler2l_ns.export.formats.web.chromium import Chromium
        browser = Chromium()
        print(browser._process.pid, flush=True)
        browser.evaluate("new Promise(() => null)", 600)
    """
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        browser = int(program.stdout.readline())
        os.kill(browser, 0)
        program.kill()
    assert wait_until_gone(browser)


def test_a_browser_that_ends_is_an_error_and_no_wait():
    with Chromium() as browser:
        browser.open("about:blank")
        browser._process.kill()
        with pytest.raises(PageError, match="the browser is gone"):
            browser.evaluate("new Promise(() => null)")


def test_a_program_that_is_no_browser_is_named(monkeypatch):
    monkeypatch.setattr(chromium, "find_chromium", lambda: "/bin/false")
    with pytest.raises(UserError, match="/bin/false does not start here"):
        Chromium()
