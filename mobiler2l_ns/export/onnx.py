"""The student as one ONNX file: standard operators, encoding in the graph, float32."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mobiler2l_ns.export.graph import PoseToImage

OPSET = 17


def convert(graph: PoseToImage, path: Path, metadata: dict[str, str]) -> None:
    """Write ``graph`` to ``path``; inputs ``camera_to_world`` (1, 3, 4) and ``intrinsics`` (1, 4), output ``image``
    (1, 3, height, width), RGB in 0..1, or (1, 4, height, width) premultiplied RGBA.

    Args:
        graph: the student.
        path: the file, overwritten.
        metadata: stored in the file's metadata_props.
    """
    import onnx

    example = (torch.eye(4)[None, :3], torch.tensor([[100.0, 100.0, graph.width / 2, graph.height / 2]]))
    with warnings.catch_warnings():
        # The TorchScript exporter writes the plain opset 17 that runtimes of any age read; torch announces its end.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            example,
            str(path),
            input_names=["camera_to_world", "intrinsics"],
            output_names=["image"],
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)
    model.producer_name, model.producer_version = "mobiler2l-ns", ""
    onnx.checker.check_model(model, full_check=True)
    foreign = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    assert not foreign, f"operators of {foreign} are not standard ONNX"
    path.write_bytes(model.SerializeToString(deterministic=True))


class OnnxRunner:
    """Runs an exported file with onnxruntime on the CPU."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def __call__(self, camera_to_world: Tensor, intrinsics: Tensor) -> Tensor:
        """(1, 3, 4) and (1, 4) in; picture (channels, height, width) in 0..1 out."""
        inputs = {"camera_to_world": camera_to_world.numpy(), "intrinsics": intrinsics.numpy()}
        return torch.from_numpy(np.asarray(self.session.run(["image"], inputs)[0])[0])
