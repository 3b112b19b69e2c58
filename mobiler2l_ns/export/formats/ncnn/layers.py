"""The layers of an ncnn package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mobiler2l_ns.export.formats.ncnn.param import FLOAT32_ONLY, METADATA, PARAM, ParamLayer
from mobiler2l_ns.export.formats.ncnn.runner import NcnnRunner, begin, extract
from mobiler2l_ns.export.layer import Layer


def read_layers(path: Path) -> list[Layer]:
    """The layers of a package, in order of execution, by their kinds, such as Convolution.

    Their shapes, which have no batch axis, are those of a run in ncnn: no file holds them. Their types are what devices
    with half precision keep them in.
    """
    about = json.loads((path / METADATA).read_text(encoding="utf8"))
    inputs = {name: np.ones((1, *shape), np.float32) for name, shape in about["inputs"].items()}
    extractor = begin(NcnnRunner(path).net, inputs)
    shapes = {name: value.shape[1:] for name, value in inputs.items()}
    found = []
    for line in (path / PARAM).read_text(encoding="utf8").splitlines()[2:]:
        layer = ParamLayer.parse(line)
        for blob in layer.tops:  # in this order nothing is computed twice, and what was used is gone
            shapes[blob] = np.asarray(extract(extractor, blob)).shape
        if layer.kind in ("Input", "Split"):  # names, not work
            continue
        on_cpu = layer.number(31) == FLOAT32_ONLY
        dtype = "float32" if on_cpu or about["precision"] == "fp32" else "float16"
        top = layer.tops[0]
        macs = layer.macs([shapes[blob] for blob in layer.bottoms], shapes[top])
        found.append(Layer(layer.kind, top, shapes[top], dtype, macs, on_cpu))
    return found
