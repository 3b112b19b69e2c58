"""The export commands: subcommands of ns-export, and the console script mobiler2l-export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from mobiler2l_ns.export.load_student import load_student
from mobiler2l_ns.export.package import export_package


@dataclass
class _Export:
    load_config: Path
    """config.yml of a mobiler2l run."""
    output_dir: Path
    """Folder for the package and its manifest.json."""
    pitch: float = 1.0
    """One of the pitches the student has learned: 2 writes a package that renders half the size."""


@dataclass
class ExportCoreML(_Export):
    """Write mobiler2l.mlpackage for iPhone, iPad and Mac: pose in, picture out."""

    precision: Literal["fp16", "fp32"] = "fp16"
    """Of the network; rays and encoding are always float32."""

    def main(self) -> None:
        """Convert, prove, move in."""
        export_package(load_student(self.load_config), "coreml", self.precision, self.output_dir, self.pitch)


@dataclass
class ExportONNX(_Export):
    """Write mobiler2l.onnx for onnxruntime on any device: pose in, picture out."""

    def main(self) -> None:
        """Convert, prove, move in."""
        export_package(load_student(self.load_config), "onnx", "fp32", self.output_dir, self.pitch)


NS_EXPORT_COMMANDS: dict[str, tuple[type, str]] = {
    "mobiler2l-coreml": (ExportCoreML, "Export a mobiler2l student as a Core ML package."),
    "mobiler2l-onnx": (ExportONNX, "Export a mobiler2l student as an ONNX file."),
}
"""Subcommand of ns-export: (dataclass with ``main``, description)."""


def entrypoint() -> None:
    """``mobiler2l-export coreml|onnx``: the same commands without ns-export's mesh libraries."""
    # The plugin's hooks let torch read nerfstudio's checkpoints.
    import mobiler2l_ns.methods  # noqa: F401

    commands = {name.removeprefix("mobiler2l-"): command for name, (command, _) in NS_EXPORT_COMMANDS.items()}
    tyro.extras.subcommand_cli_from_dict(commands, description="Write packages of a mobiler2l student.").main()
