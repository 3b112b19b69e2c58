"""Headless Chromium over the DevTools protocol: it proves web packages, and the tests look at pages with it."""

from __future__ import annotations

import base64
import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from mobiler2l_ns.errors import UserError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
MAC = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
FLAGS = (
    "--headless",
    "--no-sandbox",  # which needs rights that containers do not give
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--remote-debugging-pipe",  # it ends with the process at the other end, however that ends
    # Pictures without a graphics card: WebGL and WebGPU in software.
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
    "--use-vulkan=swiftshader",  # without which drawing to a WebGPU canvas ends the device
    "--disable-vulkan-surface",
    "--ignore-gpu-blocklist",
    # A camera that shows a test pattern, for pages that ask for one.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


def find_chromium() -> str | None:
    """The browser's program, None if there is none here."""
    found = (shutil.which(name) for name in NAMES)
    return next((path for path in (*found, *filter(os.path.exists, MAC)) if path), None)


def missing_chromium() -> str | None:
    """What to install before a page can be proven; None if it is there."""
    return None if find_chromium() else "a web page is proven by Chromium or Chrome (Debian: apt-get install chromium)"


class PageError(RuntimeError):
    """A script threw, a page did not answer, or the browser is gone."""


class Chromium:
    """A browser process with one page at a time. Use it as a context manager.

    Args:
        flags: more of the program's flags.

    Raises:
        UserError: if no Chromium is installed or it does not start.

    Example:
        with Chromium() as browser:
            browser.open("http://127.0.0.1:7007", 390, 844)
            browser.wait_for("document.querySelector('canvas')")
            browser.drag((100, 100), (200, 120))
            Path("page.png").write_bytes(browser.screenshot())
            assert browser.console == []
    """

    def __init__(self, flags: Sequence[str] = ()) -> None:
        program = find_chromium()
        if program is None:
            raise UserError("No Chromium or Chrome is on the PATH: install one (Debian: apt-get install chromium)")
        self.console: list[str] = []
        """What the page has said since it was opened: "level: text" of messages, warnings, failed loads, exceptions."""
        self._counter = 0
        self._session = self._target = ""
        self._profile = Path(tempfile.mkdtemp(prefix="mobiler2l-chromium-"))
        command = [program, *FLAGS, *flags, f"--user-data-dir={self._profile}", "about:blank"]
        # It takes messages from its file 3 and writes them to its file 4.
        shell = ["sh", "-c", 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1', *command]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(shell, stdin=pipe, stdout=pipe, bufsize=0, start_new_session=True)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._pipe = self._process.stdin
        self._answers: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=_read, args=(self._process.stdout, self._answers), name=program, daemon=True).start()
        try:
            self.send("Browser.getVersion")
        except BaseException as error:
            self._end()
            if isinstance(error, PageError):
                raise UserError(f"{program} does not start here") from None
            raise

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and delete its profile."""
        self._end()

    def _end(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)  # its own group: the children go with it
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._pipe.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def send(self, method: str, timeout: float = 60.0, **parameters: Any) -> dict[str, Any]:
        """Call a DevTools method of the page and return its result.

        Raises:
            PageError: if it fails or does not answer in ``timeout`` seconds.
        """
        self._counter += 1
        number = self._counter
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        try:
            self._write(json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            raise PageError(f"{method}: the browser is gone") from None
        until = time.monotonic() + timeout
        while True:
            answer = self._receive(max(until - time.monotonic(), 0.0), method)
            if answer.get("id") == number:
                break
        if "error" in answer:
            raise PageError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _write(self, data: bytes) -> None:
        while data:
            data = data[self._pipe.write(data) :]

    def _receive(self, timeout: float, what: str) -> dict[str, Any]:
        """The next message; what the page says is put down on the way."""
        try:
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise PageError(f"{what}: no answer in time") from None
        if answer is None:
            raise PageError(f"{what}: the browser is gone")
        message = json.loads(answer)
        method, parameters = message.get("method"), message.get("params", {})
        if message.get("sessionId", self._session) != self._session:
            return message
        if method == "Runtime.consoleAPICalled":
            words = (str(a.get("value", a.get("description", a["type"]))) for a in parameters["args"])
            self.console.append(f"{parameters['type']}: {' '.join(words)}")
        elif method == "Runtime.exceptionThrown":
            self.console.append(f"exception: {_thrown(parameters['exceptionDetails'])}")
        elif method == "Log.entryAdded":
            entry = parameters["entry"]
            self.console.append(f"{entry['level']}: {entry['text']} {entry.get('url', '')}".strip())
        return message

    def open(
        self, url: str, width: int = 1280, height: int = 800, scale: float = 1.0, touch: bool = False, before: str = ""
    ) -> None:
        """Show an address in a fresh page of ``width`` x ``height`` CSS pixels, with ``scale`` device pixels each, and
        wait until it is loaded. With ``touch`` it has a finger in place of a mouse. ``before`` is a script that runs
        before those of the page."""
        previous = self._target
        self._target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        if previous:
            self.send("Target.closeTarget", targetId=previous)
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.console = []
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": touch}
        self.send("Emulation.setDeviceMetricsOverride", **metrics)
        if touch:
            self.send("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=5)
        if before:
            self.send("Page.addScriptToEvaluateOnNewDocument", source=before)
        answer = self.send("Page.navigate", url=url)
        if "errorText" in answer:
            raise PageError(f"{url}: {answer['errorText']}")
        self.wait_for("document.readyState === 'complete'")

    def set_dark(self, dark: bool) -> None:
        """Prefer dark or light pages."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def evaluate(self, script: str, timeout: float = 60.0) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise; it must be JSON.

        Raises:
            PageError: if it throws or does not end in ``timeout`` seconds.
        """
        answer = self.send(
            "Runtime.evaluate", timeout, expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise PageError(_thrown(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait_for(self, script: str, timeout: float = 60.0) -> Any:
        """Wait until an expression is true; returns its value, true for an element.

        Raises:
            PageError: if it is not in ``timeout`` seconds.
        """
        until = time.monotonic() + timeout
        while True:
            # Elements are no JSON, but true.
            asked = f"Promise.resolve({script}).then((v) => (v instanceof Node ? true : v))"
            if value := self.evaluate(asked, timeout):
                return value
            if time.monotonic() > until:
                raise PageError(f"never true: {script}; console: {self.console}")
            time.sleep(0.05)

    def _mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 8, button: str = "left") -> None:
        """Press the mouse at a CSS pixel, move it, release it."""
        held = {"button": button, "buttons": 2 if button == "right" else 1}
        self._mouse("mouseMoved", *start)
        self._mouse("mousePressed", *start, clickCount=1, **held)
        for step in range(1, steps + 1):
            x, y = (a + (b - a) * step / steps for a, b in zip(start, end, strict=True))
            self._mouse("mouseMoved", x, y, **held)
        self._mouse("mouseReleased", *end, clickCount=1, button=button)

    def click(self, x: float, y: float) -> None:
        """Click at a CSS pixel."""
        self.drag((x, y), (x, y), 1)

    def click_on(self, selector: str) -> None:
        """Click the middle of an element, which must be there."""
        box = f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])(document.querySelector('{selector}')"
        self.click(*self.evaluate(f"{box}.getBoundingClientRect())"))

    def wheel(self, x: float, y: float, delta: float) -> None:
        """Turn the wheel by ``delta`` pixels, down if positive."""
        self._mouse("mouseWheel", x, y, deltaX=0, deltaY=delta)

    def touch(self, *moments: Sequence[tuple[float, float]]) -> None:
        """Fingers at their places, moment after moment, then lifted; the same number of fingers throughout."""
        for index, fingers in enumerate(moments):
            points = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(fingers)]
            self.send("Input.dispatchTouchEvent", type="touchMove" if index else "touchStart", touchPoints=points)
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def screenshot(self) -> bytes:
        """The page as a PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])


def _read(pipe: IO[bytes], answers: queue.Queue[bytes | None]) -> None:
    """Put down what the browser says, message by message, and None at its end."""
    rest = bytearray()
    while data := pipe.read(1 << 20):
        rest += data
        if b"\0" in data:
            *whole, rest = rest.split(b"\0")
            for message in whole:
                answers.put(bytes(message))
    pipe.close()
    answers.put(None)


def _thrown(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details["text"])
