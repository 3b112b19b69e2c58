"""From a student to a proven package in its place: convert beside the folder, prove, then move in."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from mobiler2l_ns import __version__
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export import manifest
from mobiler2l_ns.export.graph import PoseToImage
from mobiler2l_ns.export.proof import Proof, Runner, prove
from mobiler2l_ns.student.student import Student

CONTRACT = "camera_to_world, intrinsics -> image"
DESCRIPTION = "MobileR2L neural light field: a camera's pose in, its picture out."
AUTHOR = "Distilled with mobiler2l-ns"
LICENSE = "Follows from the rights in the captured photos; the code that made it is Apache-2.0"


@dataclass(frozen=True)
class Format:
    """How one kind of package is written and run. ``convert`` writes the graph to a path with the precision and
    metadata; ``run`` opens it in the runtime that proves it."""

    name: str
    file: str
    run_by: str
    thresholds: dict[str, float]
    """Least PSNR in dB to the student, for each precision on offer."""
    convert: Callable[[PoseToImage, Path, str, dict[str, str]], None]
    run: Callable[[Path], Runner]


def _convert_onnx(graph: PoseToImage, path: Path, precision: str, metadata: dict[str, str]) -> None:
    from mobiler2l_ns.export import onnx

    assert precision == "fp32"
    onnx.convert(graph, path, metadata)


def _run_onnx(path: Path) -> Runner:
    from mobiler2l_ns.export.onnx import OnnxRunner

    return OnnxRunner(path)


def _convert_coreml(graph: PoseToImage, path: Path, precision: str, metadata: dict[str, str]) -> None:
    from mobiler2l_ns.export import coreml

    coreml.convert(
        graph,
        graph.height,
        graph.width,
        path,
        precision="fp32" if precision == "fp32" else "fp16",
        metadata=metadata,
        author=AUTHOR,
        license=LICENSE,
        description=DESCRIPTION,
        version=__version__,
        alpha=graph.alpha,
    )


def _run_coreml(path: Path) -> Runner:
    from mobiler2l_ns.export import coreml
    from mobiler2l_ns.export.mil_evaluator import open_package

    package = open_package(path)

    def run(camera_to_world: Tensor, intrinsics: Tensor) -> Tensor:
        inputs = {"camera_to_world": camera_to_world.numpy(), "intrinsics": intrinsics.numpy()}
        outputs = package(inputs)
        planes = [torch.from_numpy(outputs[name]) for name in (coreml.OUTPUT, coreml.ALPHA) if name in outputs]
        return torch.cat(planes) / 255.0

    return run


FORMATS = {
    "coreml": Format(
        "coreml",
        "mobiler2l.mlpackage",
        "Core ML on macOS, elsewhere an evaluation of the saved program",
        # Core ML itself answers in bytes, which alone differ from the student's colours by 59 dB.
        {"fp16": 55.0, "fp32": 80.0} if sys.platform != "darwin" else {"fp16": 50.0, "fp32": 50.0},
        _convert_coreml,
        _run_coreml,
    ),
    "onnx": Format("onnx", "mobiler2l.onnx", "onnxruntime", {"fp32": 80.0}, _convert_onnx, _run_onnx),
}
"""Every format there is."""


def _move_in(source: Path, target: Path, trash: Path) -> None:
    if target.exists():
        target.rename(trash / target.name)
    source.rename(target)


def export_package(student: Student, format_name: str, precision: str, output_dir: Path, pitch: float = 1.0) -> Proof:
    """Write one package and its manifest into ``output_dir``, or nothing.

    The package is written and proven in a folder beside it; what stood there before is replaced at the very end.

    Args:
        student: in evaluation mode.
        format_name, precision: see ``FORMATS``.
        output_dir: made if it is not there.
        pitch: one that the student has learned; the package renders pictures of 1 / ``pitch`` the size.

    Raises:
        UserError: if the package does not give the student's pictures, or the folder cannot be written.
    """
    form, view = FORMATS[format_name], student.view(pitch)
    if pitch not in student.config.pitches:
        learned = " ".join(f"{value:g}" for value in student.config.pitches)
        raise UserError(f"This student has not learned pitch {pitch:g}, only {learned}: see --pipeline.model.pitches")
    name = Path(form.file)
    if pitch != 1.0:
        name = name.with_stem(f"{name.stem}_{view.width}x{view.height}")
    began = time.perf_counter()
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=output_dir))
    except OSError as error:
        raise UserError(f"{output_dir} cannot be written: {error}") from None
    try:
        metadata = {
            "generator": f"mobiler2l-ns {__version__}",
            "contract": CONTRACT,
            "manifest": manifest.NAME,
            "student_sha256": manifest.student_digest(student),
        }
        package = work / name
        with CONSOLE.status(f"Converting to {form.name}"):
            form.convert(PoseToImage(student, pitch).eval(), package, precision, metadata)
        proof = prove(student, form.run(package), form.thresholds[precision], f"The {form.name} package", pitch)
        size, sha256 = manifest.digests(package)
        _move_in(package, output_dir / name, work)
        entry = manifest.PackageFile(
            form.name,
            name.name,
            CONTRACT,
            precision,
            pitch,
            view.height,
            view.width,
            dict(zip(("fx", "fy", "cx", "cy"), view.intrinsics, strict=True)),
            size,
            sha256,
            round(proof.psnr, 2),
            form.run_by,
        )
        manifest.write(output_dir, student, entry)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    CONSOLE.print(
        f"[bold green]{output_dir / name}[/]  {size / 1e6:.2f} MB {precision}, {proof.psnr:.1f} dB to the "
        f"student over {proof.cameras} held-out cameras ({form.run_by}), {time.perf_counter() - began:.0f} s"
    )
    return proof
