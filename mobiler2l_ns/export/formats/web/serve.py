"""A static file server for web packages."""

from __future__ import annotations

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from nerfstudio.utils.rich_utils import CONSOLE
from rich.markup import escape

from mobiler2l_ns.errors import UserError


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = {
        **SimpleHTTPRequestHandler.extensions_map,
        # Whatever the system's own table says.
        ".js": "text/javascript",
        ".css": "text/css",
        ".json": "application/json",
        ".wasm": "application/wasm",
        ".wgsl": "text/plain",
    }

    def end_headers(self) -> None:
        # A page of its own, which has finer clocks and may have threads.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class FolderServer(ThreadingHTTPServer):
    """A folder on this machine's own address, served by a thread until ``shutdown``."""

    daemon_threads = True

    @property
    def address(self) -> str:
        """Of the folder's page."""
        return f"http://127.0.0.1:{self.server_port}/"


def serve(folder: Path, port: int = 0) -> FolderServer:
    """Serve a folder on 127.0.0.1 in the background.

    Args:
        folder: with an index.html.
        port: 0 takes any that is free.

    Raises:
        UserError: if the port is taken.
    """
    try:
        server = FolderServer(("127.0.0.1", port), functools.partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise UserError(f"Port {port} cannot be served on: {error.strerror}") from None
    threading.Thread(target=server.serve_forever, name="web package", daemon=True).start()
    return server


def show(folder: Path, port: int) -> None:
    """Serve a folder until Ctrl-C, and say where it is."""
    server = serve(folder, port)
    CONSOLE.print(f"[bold green]{server.address}[/] shows {escape(str(folder))}; Ctrl-C ends it", soft_wrap=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        server.shutdown()
