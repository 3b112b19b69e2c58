"""Core ML: a student's graphs to a `.mlpackage`, an ML program for iOS 16 / macOS 13 and later (18 / 15 for several
sizes in one package).

The package takes arrays and answers an 8-bit RGB image, and an 8-bit grey one for alpha. Four decisions, most of them
against a trap:

- **The encoding stays in float32.** `sin(32 x)` of a half-precision point is off by 0.06 rad, so where the encoding is
  part of the graph only the network, from the head on, is computed in half precision. Which operation belongs where is
  read off the graph (does a convolution or linear layer lie upstream of it?), never off its name. Input types are
  declared; left undeclared, coremltools would make them all float16 for this deployment target.
- **torch.export, not torch.jit.trace.** Both convert to the same operations, but the exported graph keeps torch's
  names, has its constants folded, and lets `1 / x` be rewritten as a division before coremltools sees it:
  its own `inverse` computes `1 / (x + 1e-4)`, which takes an fp32 package of a contracted scene from 141 to 84 dB.
- **Small weights by coremltools.optimize**, of the layers only: constants of the encoding are not weights.
- **Same module in, same bytes out.** What coremltools writes differs between two conversions in the random identifiers
  of Manifest.json and in a conversion date. Here the identifiers are derived from the content of the files they name,
  no date is written, and the specification is serialised with sorted maps. The weights file is deterministic already.
  Other versions of torch or coremltools may write other bytes; both are named in the metadata.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mobiler2l_ns.export.contract import DEPTH, DEPTH_MEANS, outputs_of
from mobiler2l_ns.export.formats.coreml.quiet import quiet, uncollected
from mobiler2l_ns.export.graph import Graph
from mobiler2l_ns.export.volume_graph import with_volume_in_half

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


Precision = Literal["fp32", "fp16", "int8", "palette6", "palette4"]
LAYERS = ("conv", "conv_transpose", "linear")
"""Operations that are layers, with weights."""


def convert(
    graphs: Mapping[str, Graph],
    path: Path,
    precision: Precision,
    metadata: Mapping[str, str],
    *,
    author: str = "",
    license: str = "",
    description: str = "",
    version: str = "",
) -> None:
    """Convert graphs and save them as one package.

    Args:
        graphs: function name -> graph, in eval mode, on the CPU; one graph is called "main". Several become functions
            of one package and share their weights.
        path: the `.mlpackage` folder to create, in a folder that exists; must not exist itself.
        precision: fp32 and fp16: of the network, the encoding before it is always fp32; int8 (one scale a channel),
            palette6 and palette4 (64 or 16 values a layer): of the stored weights, computed with in fp16.
        metadata: user-defined; the versions of torch and coremltools are added.
        author, license, version: of the model.
        description: of the model, one or two sentences, shown by Xcode.

    Raises:
        FileExistsError: `path` exists.
        CoreMLError: a graph is not as above, or what was saved is not as promised (and is left for inspection).
    """
    if path.suffix != ".mlpackage":
        raise CoreMLError(f"a Core ML package's name ends in .mlpackage, {path.name} does not")
    if path.exists():
        raise FileExistsError(f"{path} exists")
    if any(graph.training for graph in graphs.values()):
        raise CoreMLError("the graph is in training mode: call .eval() first")

    with quiet(), uncollected(), tempfile.TemporaryDirectory() as folder:
        import coremltools as ct

        several = len(graphs) > 1
        parts = {name: Path(folder) / f"{i}.mlpackage" if several else path for i, name in enumerate(graphs)}
        for name, graph in graphs.items():
            target = ct.target.iOS18 if several else ct.target.iOS16  # which know functions, and image outputs
            model = _compressed(_convert(graph, precision, target), precision)
            # model.save would copy it, too, and write it once more, which takes seconds where protobuf is Python.
            shutil.copytree(model.package_path, parts[name])
        if several:
            functions = ct.utils.MultiFunctionDescriptor()
            for name, part in parts.items():
                functions.add_function(str(part), "main", name)
            functions.default_function_name = next(iter(graphs))
            ct.utils.save_multifunction(functions, str(path))
        # From here on it is the saved file that counts: read it back, check it, describe it.
        spec_file, spec = _read_spec(path)
        described = {f.name: f for f in spec.description.functions} if several else {"main": spec.description}
        for name, graph in graphs.items():
            _check(spec.mlProgram.functions[name], described[name], path.name, graph, precision)
            _describe(described[name], graph)
        about = spec.description.metadata
        about.author, about.license, about.versionString, about.shortDescription = author, license, version, description
        versions = {f"{NAMESPACE}.version": ct.__version__, f"{NAMESPACE}.source": f"torch=={torch.__version__}"}
        for key in list(about.userDefined):  # conversion dates and the like
            del about.userDefined[key]
        about.userDefined.update({**metadata, **versions})
        spec_file.write_bytes(spec.SerializeToString(deterministic=True))
        _fix_identifiers(path)
        for part in path.rglob("*"):  # coremltools leaves some readable by their owner only
            part.chmod(0o755 if part.is_dir() else 0o644)


def _convert(graph: Graph, precision: Precision, target: Any) -> Any:
    import coremltools as ct
    import numpy as np

    half = precision != "fp32"
    # With the encoding outside, nothing needs float32: the input itself is half, and no cast is left in the graph.
    encoded = np.float16 if half and graph.contract != "pose" else np.float32
    _register_widening()
    return ct.convert(
        _export(with_volume_in_half(graph) if half else graph),
        inputs=[ct.TensorType(name=i.name, shape=i.shape, dtype=encoded) for i in graph.inputs],
        outputs=[ct.ImageType(name=OUTPUT, color_layout=ct.colorlayout.RGB)]
        + [ct.ImageType(name=ALPHA, color_layout=ct.colorlayout.GRAYSCALE)] * graph.alpha
        + [ct.TensorType(name=DEPTH, dtype=np.float32)] * (DEPTH in outputs_of(graph)),
        convert_to="mlprogram",
        minimum_deployment_target=target,
        compute_precision=_network_in_half(graph.contract) if half else ct.precision.FLOAT32,
        skip_model_load=True,  # on macOS, do not compile what is not run here
    )


def _register_widening() -> None:
    """Let coremltools know the operation by which the volume's tables are stored as float16; once is enough."""
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY, register_torch_op
    from coremltools.converters.mil.mil import Builder

    if _TORCH_OPS_REGISTRY.get_func("widen") is not None:
        return

    @register_torch_op(torch_alias=["mobiler2l::widen"])
    def widen(context: Any, node: Any) -> None:
        (values,) = _get_inputs(context, node, expected=1)
        mb: Any = Builder
        context.add(mb.constexpr_cast(source_val=values.val, output_dtype="fp32", name=node.name))


def _network_in_half(contract: str) -> Any:
    import coremltools as ct

    return ct.transform.FP16ComputePrecision(op_selector=_in_network) if contract == "pose" else ct.precision.FLOAT16


def _compressed(model: Any, precision: Precision) -> Any:
    """Weights of the layers in fewer bits."""
    if precision in ("fp32", "fp16"):
        return model
    from coremltools.optimize import coreml as optimize

    if precision == "int8":
        how: Any = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", granularity="per_channel")
        compress = optimize.linear_quantize_weights
    else:
        how = optimize.OpPalettizerConfig(mode="kmeans", nbits=int(precision.removeprefix("palette")))
        compress = optimize.palettize_weights
    layers: Any = dict.fromkeys(LAYERS, how)
    return compress(model, optimize.OptimizationConfig(op_type_configs=layers))


def input_dtype(graph: Graph, precision: str) -> Literal["float32", "float16"]:
    """What the package wants its inputs in."""
    return "float16" if graph.contract != "pose" and precision != "fp32" else "float32"


class _Scaled(nn.Module):
    """An image output holds 0..255."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.wrapped = graph  # not "graph": torch.fx has an attribute of that name
        self.alpha, self.depth = graph.alpha, DEPTH in outputs_of(graph)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        picture, *depth = self.wrapped(*inputs) if self.depth else (self.wrapped(*inputs),)
        picture = picture * 255.0
        outputs = (*(picture.split([3, 1], dim=1) if self.alpha else (picture,)), *depth)
        return outputs if len(outputs) > 1 else picture


def _export(graph: Graph) -> torch.export.ExportedProgram:
    # Torch's own decompositions are left out: coremltools knows gelu and its like as they are.
    aten: Any = torch.ops.aten
    table: dict[Any, Any] = {aten.reciprocal.default: lambda x: torch.full((), 1.0, dtype=x.dtype) / x}
    with torch.no_grad():
        examples = tuple(torch.ones(i.shape) for i in graph.inputs)
        return torch.export.export(_Scaled(graph).eval(), examples, strict=False).run_decompositions(table)


def _in_network(op: Any) -> bool:
    """Whether a MIL operation is a layer (a convolution, or a linear layer of the MLP) or lies downstream of one.

    coremltools asks this while it inserts casts, so the graph is walked afresh each time: nothing can go stale.
    """
    stack, seen = [op], set()
    while stack:
        current = stack.pop()
        if current is None or current in seen:  # None: what a function input comes from
            continue
        if current.op_type in LAYERS:
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


def _check(function: Any, described: Any, name: str, graph: Graph, precision: Precision) -> None:
    """Hold what was saved against what `convert` promises."""
    ops = Counter(op.type for op in function.block_specializations[function.opset].operations)
    for prefix, advice in FORBIDDEN_OPS.items():
        found = [f"{n} x {op}" for op, n in ops.items() if op.startswith(prefix)]
        if found:
            raise CoreMLError(f"{name} contains {', '.join(found)}: {advice}")

    image = described.output[0].type.imageType
    if (image.height, image.width) != (graph.height, graph.width):
        raise CoreMLError(f"{name} renders {image.width} x {image.height} pixels, not {graph.width} x {graph.height}")
    dtype = input_dtype(graph, precision)
    for saved, wanted in zip(described.input, graph.inputs, strict=True):
        array = saved.type.multiArrayType
        kind = {array.FLOAT32: "float32", array.FLOAT16: "float16"}.get(array.dataType)
        if (saved.name, tuple(array.shape), kind) != (wanted.name, wanted.shape, dtype):
            raise CoreMLError(f"{name}: input {wanted.name} was not saved as {dtype} of shape {wanted.shape}")


def _describe(described: Any, graph: Graph) -> None:
    """What Xcode shows of inputs and outputs."""
    for saved, wanted in zip(described.input, graph.inputs, strict=True):
        saved.shortDescription = wanted.description
    colours = "RGB, premultiplied by alpha" if graph.alpha else "RGB"
    texts = {
        OUTPUT: f"The rendered image, {colours}, {graph.width} x {graph.height} pixels.",
        ALPHA: "Its alpha.",
        DEPTH: DEPTH_MEANS,
    }
    for output in described.output:
        output.shortDescription = texts[output.name]


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
