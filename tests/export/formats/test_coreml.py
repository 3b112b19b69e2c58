"""A Core ML package is what it says: checked on the saved file, evaluated operation by operation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobiler2l_ns.export.contract import POSE_INPUTS, GraphInput
from mobiler2l_ns.export.formats.coreml import convert as coreml
from mobiler2l_ns.export.formats.coreml.evaluator import MILError, MILProgram
from mobiler2l_ns.export.formats.coreml.runner import image_to_array, open_package

H, W = 5, 7  # rays
K, L = 8, 6
INPUT = GraphInput("encoding", (1, 4, H, W), "For graphs that do not start at a pose.")


def as_graph(module: nn.Module, height: int, width: int, inputs: Any, contract: str) -> Any:
    """What the exporter asks of a graph, on a module that is not a student's."""
    graph: Any = module.eval()
    graph.height, graph.width, graph.inputs, graph.contract, graph.alpha = height, width, inputs, contract, False
    return graph


class Block(nn.Module):
    def __init__(self, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(width, width, 1), activation, nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class PoseToImage(nn.Module):
    """A small stand-in for the graph that is exported: pose -> rays -> points -> encoding -> network -> image."""

    xy: Tensor
    z: Tensor
    freqs: Tensor

    def __init__(self, activation: nn.Module, strides: tuple[int, ...], contract: bool, width: int = 16) -> None:
        super().__init__()
        self.contracted, self.stride = contract, math.prod(strides)
        y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
        self.register_buffer("xy", self.stride * torch.stack([x, y]).reshape(2, 1, -1))
        self.register_buffer("z", torch.linspace(2, 6, K).reshape(K, 1, 1))
        self.register_buffer("freqs", 2.0 ** torch.arange(L).reshape(1, L, 1))
        self.head = nn.Sequential(nn.Conv2d(3 * K * (2 * L + 1), width, 1), activation)
        self.body = nn.Sequential(Block(width, activation), Block(width, activation))
        up = {2: (4, 2, 1), 3: (3, 3, 0)}  # kernel, stride, padding
        tail = [m for s in strides for m in (nn.ConvTranspose2d(width, width, *up[s]), Block(width, activation))]
        self.tail = nn.Sequential(*tail, nn.Conv2d(width, 3, 1), nn.Sigmoid())

    def forward(self, camera_to_world: Tensor, intrinsics: Tensor) -> Tensor:
        rotation, origin = camera_to_world.reshape(3, 4).split([3, 1], 1)
        fx, fy, cx, cy = intrinsics.split(1, 1)
        x, y = self.xy.split(1)
        directions = torch.cat([(x[0] - cx) / fx, (cy - y[0]) / fy, -torch.ones_like(x[0])])
        points = origin + self.z * (rotation @ directions)  # (K, 3, h*w)
        if self.contracted:
            norm = points.abs().amax(1, keepdim=True)
            norm = torch.maximum(norm, torch.ones_like(norm))
            points = points * ((2 - 1 / norm) / norm)
        points = points.reshape(3 * K, 1, -1)
        phase = points * self.freqs
        encoding = torch.cat([phase.sin(), phase.cos(), points], 1).reshape(1, -1, H, W)
        features = self.head(encoding)
        return self.tail(features + self.body(features))


def standin(activation: nn.Module | None = None, strides: tuple[int, ...] = (2, 2), contract: bool = False) -> Any:
    """Its weights are drawn large enough for every pose to give a picture full of contrast."""
    torch.manual_seed(0)
    graph: Any = PoseToImage(activation or nn.GELU(), strides, contract).requires_grad_(False)
    as_graph(graph, H * graph.stride, W * graph.stride, POSE_INPUTS, "pose")
    for layer in graph.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.weight *= 1.6
    graph.head[0].weight *= 2
    graph.tail[-2].weight *= 4
    return graph


def poses(n: int, stride: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    cameras = []
    for _ in range(n):
        rotation = torch.linalg.qr(torch.randn(3, 3))[0]
        focal = stride * W * (1 + torch.rand(2))
        centre = stride * torch.tensor([W, H]) * (0.3 + 0.4 * torch.rand(2))
        cameras.append((torch.cat([rotation, torch.randn(3, 1)], 1)[None], torch.cat([focal, centre])[None]))
    return cameras


def convert(graph: Any, path: Path, precision: coreml.Precision, **options: Any) -> Path:
    coreml.convert({"main": graph}, path, precision, {"scene": "lego", "stride": "4"}, **options)
    return path


def worst_psnr(program: MILProgram, graph: Any) -> float:
    """In dB, peak 1, over four random poses."""
    errors = []
    for camera_to_world, intrinsics in poses(4, graph.stride):
        image = program.run({"camera_to_world": camera_to_world, "intrinsics": intrinsics})["image"] / 255
        reference = graph(camera_to_world, intrinsics).numpy()
        assert image.shape == reference.shape and reference.std() > 0.1
        errors.append(np.mean((image - reference) ** 2, dtype=np.float64))
    return float(-10 * np.log10(max(errors)))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One graph at both precisions, and once more."""
    folder = tmp_path_factory.mktemp("coreml")
    about = {"author": "A. Uthor", "license": "CC0", "description": "A test.", "version": "0.1"}
    return {
        "fp32": convert(standin(), folder / "fp32.mlpackage", "fp32"),
        "fp16": convert(standin(), folder / "fp16.mlpackage", "fp16", **about),
        "again": convert(standin(), folder / "again.mlpackage", "fp16", **about),
    }


def test_an_fp32_package_computes_what_torch_computes(packages: dict[str, Path]) -> None:
    assert worst_psnr(MILProgram.load(packages["fp32"]), standin()) > 100


def test_an_fp16_package_differs_by_half_precision_only(packages: dict[str, Path]) -> None:
    assert 60 < worst_psnr(MILProgram.load(packages["fp16"]), standin()) < 100


def test_a_wrong_weight_is_seen(packages: dict[str, Path]) -> None:
    graph = standin()
    graph.body[1].layers[2].weight[3, 4] += 1.0
    assert worst_psnr(MILProgram.load(packages["fp32"]), graph) < 40


def test_only_the_network_is_in_half_precision(packages: dict[str, Path]) -> None:
    program = MILProgram.load(packages["fp16"])
    for op in ("matmul", "real_div", "sin", "cos", "concat", "reshape"):
        assert program.dtypes(op) == {"fp32"}, op
    for op in ("conv", "conv_transpose", "gelu", "sigmoid"):
        assert program.dtypes(op) == {"fp16"}, op
    assert program.ops()["cast"] == 2  # into the network and out of it


def test_encoding_in_half_precision_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml, "_in_network", lambda op: True)
    package = convert(standin(), tmp_path / "all.mlpackage", "fp16")
    assert worst_psnr(MILProgram.load(package), standin()) < 55


def test_a_package_has_no_batch_norm_and_no_gather(packages: dict[str, Path]) -> None:
    for precision in ("fp16", "fp32"):
        ops = MILProgram.load(packages[precision]).ops()
        assert ops["conv"] == 1 + 2 * 2 + 2 * 2 + 1 and ops["conv_transpose"] == 2
        assert not [op for op in ops if op.startswith(("batch_norm", "gather"))]


def test_a_package_describes_itself(packages: dict[str, Path]) -> None:
    from coremltools.models.utils import load_spec

    spec: Any = load_spec(str(packages["fp16"]))
    shapes = {"camera_to_world": (1, 3, 4), "intrinsics": (1, 4)}
    assert [i.name for i in spec.description.input] == list(shapes)
    for i in spec.description.input:
        array = i.type.multiArrayType
        assert array.dataType == array.FLOAT32 and tuple(array.shape) == shapes[i.name]
        assert str(shapes[i.name]) in i.shortDescription

    (image,) = spec.description.output
    assert image.name == "image" and "28 x 20" in image.shortDescription
    assert image.type.imageType.colorSpace == image.type.imageType.RGB
    assert (image.type.imageType.height, image.type.imageType.width) == (20, 28)

    about = spec.description.metadata
    assert (about.author, about.license, about.versionString) == ("A. Uthor", "CC0", "0.1")
    assert about.shortDescription == "A test."
    assert about.userDefined["scene"] == "lego" and about.userDefined["stride"] == "4"
    assert spec.specificationVersion == 7  # iOS 16


def test_the_same_graph_gives_the_same_bytes(packages: dict[str, Path]) -> None:
    def content(package: Path) -> dict[str, bytes]:
        return {str(f.relative_to(package)): f.read_bytes() for f in sorted(package.rglob("*")) if f.is_file()}

    first, second = content(packages["fp16"]), content(packages["again"])
    assert len(first) == 3 and first == second
    assert content(packages["fp32"]) != first


@pytest.mark.parametrize(
    ("activation", "strides", "precision", "floor"),
    [(nn.ReLU(), (2, 3), "fp16", 60), (nn.Identity(), (3,), "fp32", 100)],
)
def test_contracted_scenes_and_other_activations(
    tmp_path: Path, activation: nn.Module, strides: tuple[int, ...], precision: Any, floor: float
) -> None:
    graph = standin(activation, strides, contract=True)
    program = MILProgram.load(convert(graph, tmp_path / "variant.mlpackage", precision))
    assert worst_psnr(program, graph) > floor
    ops = program.ops()
    assert ops["relu"] == (5 if isinstance(activation, nn.ReLU) else 0) and ops["gelu"] == 0
    assert ops["reduce_max"] == 1 and ops["inverse"] == 0


def test_a_network_without_an_encoding_is_half_throughout(tmp_path: Path) -> None:
    network = as_graph(nn.Sequential(nn.Conv2d(4, 3, 1), nn.Sigmoid()), H, W, [INPUT], "encoding")
    path = convert(network, tmp_path / "network.mlpackage", "fp16")
    x = torch.randn(1, 4, H, W)
    image = open_package(path)({"encoding": x})["image"]
    assert image.shape == (3, H, W)
    np.testing.assert_allclose(image, 255 * network(x)[0].detach().numpy(), atol=0.3)
    program = MILProgram.load(path)
    assert program.dtypes("conv") == {"fp16"} and program.ops()["cast"] == 1  # into the image


def test_the_head_of_an_mlp_ends_the_encoding_too(tmp_path: Path) -> None:
    class Mlp(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(torch.sin(input).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    network = as_graph(Mlp(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3), nn.Sigmoid()), H, W, [INPUT], "pose")
    program = MILProgram.load(convert(network, tmp_path / "mlp.mlpackage", "fp16"))
    assert program.dtypes("sin") == {"fp32"} and program.dtypes("linear") == {"fp16"}
    x = torch.randn(1, 4, H, W)
    image = program.run({"encoding": x})["image"]
    np.testing.assert_allclose(image, 255 * network(x).detach().numpy(), atol=0.3)


class TestRefusals:
    def test_what_must_not_be_in_a_package(self, tmp_path: Path) -> None:
        class Gathering(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x[:, torch.tensor([0, 2, 1])]

        with pytest.raises(coreml.CoreMLError, match=r"g\.mlpackage contains 1 x gather.*: index with split"):
            self.convert(Gathering(), H, W, tmp_path / "g.mlpackage")

    def test_another_size_than_said(self, tmp_path: Path) -> None:
        with pytest.raises(coreml.CoreMLError, match="renders 7 x 5 pixels, not 5 x 7"):
            self.convert(nn.Conv2d(4, 3, 1), W, H, tmp_path / "s.mlpackage")

    def convert(self, network: nn.Module, height: int, width: int, path: Path) -> None:
        convert(as_graph(network, height, width, [INPUT], "encoding"), path, "fp32")

    def test_before_anything_is_converted(self, tmp_path: Path) -> None:
        with pytest.raises(FileExistsError):
            (tmp_path / "there.mlpackage").mkdir()
            convert(standin(), tmp_path / "there.mlpackage", "fp32")
        with pytest.raises(coreml.CoreMLError, match="ends in .mlpackage"):
            convert(standin(), tmp_path / "lego.mlmodel", "fp32")
        with pytest.raises(coreml.CoreMLError, match="training mode"):
            convert(standin().train(), tmp_path / "t.mlpackage", "fp32")

    def test_inputs_that_do_not_fit(self, packages: dict[str, Path]) -> None:
        program = MILProgram.load(packages["fp32"])
        with pytest.raises(MILError, match="takes .*camera_to_world.*, got .*pose"):
            program.run({"pose": np.zeros((1, 3, 4))})
        with pytest.raises(MILError, match=r"camera_to_world has shape \(1, 3, 4\), got \(3, 4\)"):
            program.run({"camera_to_world": np.zeros((3, 4)), "intrinsics": np.zeros((1, 4))})


class TestEvaluator:
    """Operations that the packages above do not exercise, against torch."""

    def test_operations(self, tmp_path: Path) -> None:
        from coremltools.converters.mil import Builder

        mb: Any = Builder
        torch.manual_seed(0)
        x, mean, kernel, matrix = torch.randn(2, 4, 6), torch.rand(4), torch.randn(3, 4, 1, 3), torch.randn(5, 6)
        image, planes = x.reshape(1, 4, 2, 6), mean.reshape(4, 1, 1)
        index = {"begin": [1, 3, 0], "end": [2, 0, 5], "stride": [1, -1, 2], "squeeze_mask": [True, False, False]}

        def body(x: Any) -> list[Any]:
            image = mb.reshape(x=x, shape=[1, 4, 2, 6])
            return [
                mb.transpose(x=x, perm=[2, 0, 1]),
                mb.tile(x=x, reps=[2, 1, 3]),
                mb.stack(values=[x, mb.square(x=x)], axis=1),
                mb.slice_by_size(x=x, begin=[0, 1, 2], size=[2, 2, -1]),
                mb.slice_by_index(x=x, **index),
                mb.squeeze(x=mb.expand_dims(x=image, axes=[3]), axes=[0]),
                mb.linear(x=x, weight=matrix.numpy(), bias=matrix[:, 0].numpy()),
                mb.matmul(x=x, y=x, transpose_y=True),
                mb.reduce_sum(x=x, axes=[0, -1], keep_dims=False),
                mb.minimum(x=mb.clip(x=x, alpha=-0.5, beta=0.7), y=0.6),
                mb.pow(x=mb.sqrt(x=mb.abs(x=x)), y=3.0),
                mb.silu(x=x),
                mb.gelu(x=x, mode="TANH_APPROXIMATION"),
                mb.cast(x=mb.cast(x=x, dtype="fp16"), dtype="fp32"),
                mb.cast(x=mb.cast(x=mb.mul(x=x, y=3.0), dtype="int32"), dtype="fp32"),
                mb.batch_norm(x=image, mean=mean.numpy(), variance=mean.numpy(), epsilon=0.1),
                mb.conv(x=image, weight=kernel.numpy(), pad_type="custom", pad=[1, 0, 2, 0]),
                mb.inverse(x=mb.abs(x=x), epsilon=0.5),
            ]

        expected = [
            x.permute(2, 0, 1),
            x.repeat(2, 1, 3),
            torch.stack([x, x**2], 1),
            x[:, 1:3, 2:],
            x[1].flip(0)[:3, 0:5:2],
            image[0, :, :, None],
            nn.functional.linear(x, matrix, matrix[:, 0]),
            x @ x.mT,
            x.sum((0, 2)),
            x.clamp(-0.5, 0.6),
            x.abs() ** 1.5,
            nn.functional.silu(x),
            nn.functional.gelu(x, approximate="tanh"),
            x.half().float(),
            (3 * x).trunc(),
            (image - planes) / (planes + 0.1).sqrt(),
            nn.functional.conv2d(nn.functional.pad(image, (2, 0, 1, 0)), kernel),
            1 / (x.abs() + 0.5),
        ]
        program = self.save(tmp_path / "ops.mlpackage", body, (2, 4, 6))
        outputs = list(program.run({"x": x}).values())
        for i, (output, value) in enumerate(zip(outputs, expected, strict=True)):
            np.testing.assert_allclose(output, value.numpy(), rtol=1e-5, atol=1e-6, err_msg=f"case {i}")
        wanted = "transpose tile stack slice_by_size slice_by_index squeeze expand_dims linear matmul reduce_sum "
        wanted += "minimum clip pow sqrt silu gelu cast batch_norm conv inverse"
        assert program.ops().keys() >= set(wanted.split())  # none was optimised away

    @pytest.mark.parametrize(("precision", "least"), [("int8", 40), ("palette6", 30), ("palette4", 15)])
    def test_compressed_weights(self, tmp_path: Path, precision: Any, least: float) -> None:
        graph = PoseToImage(nn.GELU(), (2, 2), False, width=64).requires_grad_(False)
        as_graph(graph, H * 4, W * 4, POSE_INPUTS, "pose")
        program = MILProgram.load(convert(graph, tmp_path / "small.mlpackage", precision))
        assert [op for op in program.ops() if op.startswith("constexpr_")]
        camera_to_world, intrinsics = poses(1, 4)[0]
        image = program.run({"camera_to_world": camera_to_world, "intrinsics": intrinsics})["image"] / 255
        error = np.mean((image - graph(camera_to_world, intrinsics).numpy()) ** 2)
        assert least < -10 * np.log10(error) < 90

    def test_an_unknown_operation_is_named(self, tmp_path: Path) -> None:
        from coremltools.converters.mil import Builder

        mb: Any = Builder
        program = self.save(tmp_path / "erf.mlpackage", lambda x: mb.erf(x=x), (3,))
        with pytest.raises(MILError, match="operation erf .* is not known"):
            program.run({"x": torch.zeros(3)})

    def test_an_image_is_one_array_on_every_platform(self) -> None:
        from PIL import Image

        rgb = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
        for image in (rgb, Image.fromarray(rgb), Image.fromarray(rgb).convert("RGBA")):
            array = image_to_array(image)
            assert array.shape == (3, 2, 4) and array.dtype == np.float32
            np.testing.assert_array_equal(array, rgb.transpose(2, 0, 1))

    @staticmethod
    def save(path: Path, body: Any, shape: tuple[int, ...]) -> MILProgram:
        import coremltools as ct
        from coremltools.converters.mil import Builder

        mb: Any = Builder
        ios16: Any = ct.target.iOS16
        program = mb.program(input_specs=[mb.TensorSpec(shape=shape)], opset_version=ios16)(body)
        options: Any = {"minimum_deployment_target": ios16, "compute_precision": ct.precision.FLOAT32}
        ct.convert(program, convert_to="mlprogram", package_dir=str(path), skip_model_load=True, **options)
        return MILProgram.load(path)
