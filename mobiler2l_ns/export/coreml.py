"""Core ML: a torch graph to a `.mlpackage` (an ML program for iOS 16 / macOS 13 and later).

The package takes float32 arrays and answers an 8-bit RGB image, and an 8-bit grey one for alpha. Three decisions, each
against a trap:

- **The encoding stays in float32.** `sin(32 x)` of a half-precision point is off by 0.06 rad, so at `precision="fp16"`
  only the network, from the head on, is computed in half precision. Which operation belongs where is read off the
  graph (does a convolution or linear layer lie upstream of it?), never off its name. The inputs are declared float32;
  left undeclared, coremltools would make them float16 for this deployment target.
- **torch.export, not torch.jit.trace.** Both convert to the same operations, but the exported graph keeps torch's
  names, has its constants folded, and lets `1 / x` be rewritten as a division before coremltools sees it:
  its own `inverse` computes `1 / (x + 1e-4)`, which takes an fp32 package of a contracted scene from 141 to 84 dB.
- **Same module in, same bytes out.** What coremltools writes differs between two conversions in the random identifiers
  of Manifest.json and in a conversion date. Here the identifiers are derived from the content of the files they name,
  no date is written, and the specification is serialised with sorted maps. The weights file is deterministic already.
  Other versions of torch or coremltools may write other bytes; both are named in the metadata.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor, nn

OUTPUT, ALPHA = "image", "alpha"
NAMESPACE = "com.github.apple.coremltools"  # where coremltools itself notes versions

FORBIDDEN_OPS = {
    "batch_norm": "fold the batch norms into the convolutions first",
    "gather": "index with split, narrow or matmul instead",
    "inverse": "Core ML adds 1e-4 to its argument; divide instead",
}
"""Prefixes of operations that a package must not contain, and what to do about each."""


class CoreMLError(RuntimeError):
    """The conversion did not give the package that was asked for."""


@dataclass(frozen=True)
class TensorInput:
    """One float32 input of the graph.

    The shape is fixed, as the Neural Engine likes it. The description is what Xcode shows: say axes, order and units.
    """

    name: str
    shape: tuple[int, ...]
    description: str


POSE_INPUTS = (
    TensorInput(
        "camera_to_world",
        (1, 3, 4),
        "Camera pose, row-major [R|t], shape (1, 3, 4): right, up and backward axes of the camera (OpenGL: it looks "
        "along -z) and its centre as columns, in the units of the training scene.",
    ),
    TensorInput(
        "intrinsics",
        (1, 4),
        "Focal lengths and principal point fx, fy, cx, cy, shape (1, 4), in output pixels from the upper left corner.",
    ),
)
"""Inputs of a graph that goes from a pose to an image."""


def convert(
    graph: nn.Module,
    height: int,
    width: int,
    path: Path,
    *,
    precision: Literal["fp16", "fp32"],
    metadata: Mapping[str, str],
    author: str = "",
    license: str = "",
    description: str = "",
    version: str = "",
    inputs: Sequence[TensorInput] = POSE_INPUTS,
    image_description: str = "",
    alpha: bool = False,
) -> None:
    """Convert a graph and save it.

    Args:
        graph: in eval mode, on the CPU; `inputs` as float32 tensors, in order -> rgb (1, 3, H, W) float32, 0..1, or
            with `alpha` premultiplied rgba (1, 4, H, W).
        height, width: H and W, output pixels; checked.
        path: the `.mlpackage` folder to create, in a folder that exists; must not exist itself.
        precision: of the network; the encoding, upstream of its first layer, is always fp32.
        metadata: user-defined; the versions of torch and coremltools are added.
        author, license, version: of the model.
        description: of the model, one or two sentences, shown by Xcode.
        inputs: what the graph takes, should it not start at a pose.
        image_description: of the output; a default says its size.
        alpha: whether there is a second output, `alpha`; Core ML has no image of four channels.

    Raises:
        FileExistsError: `path` exists.
        CoreMLError: the graph is not as above, or what was saved is not as promised (and is left for inspection).
    """
    if path.suffix != ".mlpackage":
        raise CoreMLError(f"a Core ML package's name ends in .mlpackage, {path.name} does not")
    if path.exists():
        raise FileExistsError(f"{path} exists")
    if graph.training:
        raise CoreMLError("the graph is in training mode: call .eval() first")

    with quiet():
        import coremltools as ct
        import numpy as np

        network_in_half = ct.transform.FP16ComputePrecision(op_selector=_in_network)
        ct.convert(
            _export(graph, inputs, alpha),
            inputs=[ct.TensorType(name=i.name, shape=i.shape, dtype=np.float32) for i in inputs],
            outputs=[ct.ImageType(name=OUTPUT, color_layout=ct.colorlayout.RGB)]
            + [ct.ImageType(name=ALPHA, color_layout=ct.colorlayout.GRAYSCALE)] * alpha,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS16,
            compute_precision=network_in_half if precision == "fp16" else ct.precision.FLOAT32,
            package_dir=str(path),
            skip_model_load=True,  # on macOS, do not compile what is not run here
        )
        # From here on it is the saved file that counts: read it back, check it, describe it.
        spec_file, spec = _read_spec(path)
        _check(spec, path.name, height, width, inputs)
        about = spec.description.metadata
        about.author, about.license, about.versionString, about.shortDescription = author, license, version, description
        versions = {f"{NAMESPACE}.version": ct.__version__, f"{NAMESPACE}.source": f"torch=={torch.__version__}"}
        about.userDefined.update({**metadata, **versions})
        for saved, wanted in zip(spec.description.input, inputs, strict=True):
            saved.shortDescription = wanted.description
        colours = "RGB, premultiplied by alpha" if alpha else "RGB"
        described = [image_description or f"The rendered image, {colours}, {width} x {height} pixels.", "Its alpha."]
        for image, text in zip(spec.description.output, described, strict=False):
            image.shortDescription = text
        spec_file.write_bytes(spec.SerializeToString(deterministic=True))
        _fix_identifiers(path)
        for part in path.rglob("*"):  # coremltools leaves some readable by their owner only
            part.chmod(0o755 if part.is_dir() else 0o644)


class _Scaled(nn.Module):
    """An image output holds 0..255."""

    def __init__(self, graph: nn.Module, alpha: bool) -> None:
        super().__init__()
        self.wrapped = graph  # not "graph": torch.fx has an attribute of that name
        self.alpha = alpha

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        picture = self.wrapped(*inputs) * 255.0
        return tuple(picture.split([3, 1], dim=1)) if self.alpha else picture


def _export(graph: nn.Module, inputs: Sequence[TensorInput], alpha: bool) -> torch.export.ExportedProgram:
    # Torch's own decompositions are left out: coremltools knows gelu and its like as they are.
    aten: Any = torch.ops.aten
    table: dict[Any, Any] = {aten.reciprocal.default: lambda x: torch.full((), 1.0, dtype=x.dtype) / x}
    with torch.no_grad():
        program = torch.export.export(_Scaled(graph, alpha).eval(), tuple(torch.ones(i.shape) for i in inputs))
        return program.run_decompositions(table)


def _in_network(op: Any) -> bool:
    """Whether a MIL operation is a layer (a convolution, or a linear layer of the MLP) or lies downstream of one.

    coremltools asks this while it inserts casts, so the graph is walked afresh each time: nothing can go stale.
    """
    stack, seen = [op], set()
    while stack:
        current = stack.pop()
        if current is None or current in seen:  # None: what a function input comes from
            continue
        if current.op_type in ("conv", "conv_transpose", "linear"):
            return True
        seen.add(current)
        for value in current.inputs.values():
            stack.extend(v.op for v in (value if isinstance(value, (list, tuple)) else (value,)) if v is not None)
    return False


def _read_spec(path: Path) -> tuple[Path, Any]:
    """The file of a package that holds its specification, and that specification."""
    from coremltools.proto import Model_pb2

    manifest = json.loads((path / "Manifest.json").read_text())
    file = path / "Data" / manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    spec: Any = vars(Model_pb2)["Model"]()
    spec.ParseFromString(file.read_bytes())
    return file, spec


def _check(spec: Any, name: str, height: int, width: int, inputs: Sequence[TensorInput]) -> None:
    """Hold a specification against what `convert` promises."""
    main = spec.mlProgram.functions["main"]
    ops = Counter(op.type for op in main.block_specializations[main.opset].operations)
    for prefix, advice in FORBIDDEN_OPS.items():
        found = [f"{n} x {op}" for op, n in ops.items() if op.startswith(prefix)]
        if found:
            raise CoreMLError(f"{name} contains {', '.join(found)}: {advice}")

    image = spec.description.output[0].type.imageType
    if (image.height, image.width) != (height, width):
        raise CoreMLError(f"{name} renders {image.width} x {image.height} pixels, not {width} x {height}")
    for saved, wanted in zip(spec.description.input, inputs, strict=True):
        array = saved.type.multiArrayType
        if (saved.name, tuple(array.shape), array.dataType) != (wanted.name, wanted.shape, array.FLOAT32):
            raise CoreMLError(f"{name}: input {wanted.name} was not saved as float32 of shape {wanted.shape}")


def _fix_identifiers(path: Path) -> None:
    """Replace the random identifiers of Manifest.json by ones that follow from the content."""
    file = path / "Manifest.json"
    manifest = json.loads(file.read_text())
    renamed = {}
    for identifier, item in manifest["itemInfoEntries"].items():
        digest = hashlib.sha256(item["path"].encode())
        content = path / "Data" / item["path"]
        for part in sorted(content.rglob("*")) if content.is_dir() else [content]:
            digest.update(part.read_bytes() if part.is_file() else b"")
        renamed[identifier] = str(uuid.uuid5(uuid.NAMESPACE_OID, digest.hexdigest()))
    manifest["itemInfoEntries"] = {renamed[k]: item for k, item in manifest["itemInfoEntries"].items()}
    manifest["rootModelIdentifier"] = renamed[manifest["rootModelIdentifier"]]
    file.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence coremltools' log lines (eight at its import alone) and progress bars; errors still raise."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
            warnings.simplefilter("ignore")
            from coremltools.converters.mil.frontend.torch import ops
            from coremltools.converters.mil.mil.passes import pass_pipeline

            for module, bar in ((ops, "_tqdm"), (pass_pipeline, "tqdm")):
                stack.enter_context(mock.patch.object(module, bar, lambda items, *_, **__: items, create=True))
            yield
    finally:
        logger.setLevel(level)
