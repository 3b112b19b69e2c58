"""An export beside the viewer: mobiler2l-export in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from functools import cached_property
from pathlib import Path

COMMAND = "from mobiler2l_ns.plugin.export_commands import entrypoint; entrypoint()"
"""What the console script mobiler2l-export does."""
SPECIAL = re.compile(r"[\\`*{<\[]")
"""What the viewer's Markdown would take for markup or code."""


def format_names() -> list[str]:
    """What mobiler2l-export can write with what is installed here; "all" of it last."""
    from mobiler2l_ns.export.formats import all_formats

    return [*(name for name, form in all_formats().items() if form.missing() is None), "all"]


class ExportJob:
    """One running or finished export of a run's newest checkpoint.

    Args:
        form: the subcommand of mobiler2l-export.
        load_config: config.yml of the run.
        output_dir: folder for the packages.
    """

    def __init__(self, form: str, load_config: Path, output_dir: Path) -> None:
        self.form = form
        self.output_dir = output_dir
        self._begin = time.monotonic()
        self._said = tempfile.TemporaryFile()
        arguments = [form, "--load-config", str(load_config), "--output-dir", str(output_dir)]
        self._process = subprocess.Popen(
            # Unbuffered: what it prints would come after the error that ends it.
            [sys.executable, "-u", "-c", COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
        )

    @property
    def running(self) -> bool:
        """Whether it is still at work."""
        return self._process.poll() is None

    def state(self) -> str:
        """One paragraph of Markdown: running for how long, done and where, or the error's one line."""
        if self.running:
            return f"Exporting {self.form}: {time.monotonic() - self._begin:.0f} s"
        return self._outcome

    @cached_property
    def _outcome(self) -> str:
        if self._process.returncode == 0:
            return f"Done: `{self.output_dir}`" + "".join(f"  \n{line}" for line in self._packages())
        return "**Failed:** " + SPECIAL.sub(r"\\\g<0>", self._last_line())

    def _packages(self) -> list[str]:
        manifest = json.loads((self.output_dir / "manifest.json").read_text(encoding="utf8"))
        return [
            f"`{entry['path']}`: {entry['bytes'] / 1e6:.2f} MB, {entry['psnr_student']:.0f} dB to the student"
            for entry in manifest["files"]
            if self.form in (entry["format"], "all")
        ]

    def _last_line(self) -> str:
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read().decode("utf8", "replace").splitlines()]
        return next((line for line in reversed(lines) if line), f"exit status {self._process.returncode}")
