"""The network as the page's engines run it."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mobiler2l_ns.student.network import ResidualBlock, StudentNetwork, SuperResolution

Precision = Literal["fp16", "fp32"]


class NetworkLayers:
    """The network as a list of operations on numbered registers, and their weights in one array.

    Channels are filled up with zeros to multiples of eight, which the kernels ask for.
    """

    def __init__(self, network: StudentNetwork, precision: Precision) -> None:
        self.dtype = np.dtype("<f2" if precision == "fp16" else "<f4")
        self.operations: list[dict[str, Any]] = []
        self.chunks: list[bytes] = []
        self.values = 0
        self.registers: dict[int, tuple[int, int]] = {}  # channels, pixels a ray each way
        self._add_network(network)

    def append(self, values: NDArray[np.float32]) -> int:
        """Index of values in the array; each begins at a multiple of eight."""
        start = self.values
        filled = np.pad(values.astype(self.dtype).ravel(), (0, -values.size % 8))
        self.chunks.append(filled.tobytes())
        self.values += filled.size
        return start

    def append_linear(self, weight: NDArray[np.float32], bias: NDArray[np.float32], inputs: int) -> dict[str, int]:
        """A linear map (outputs, inputs) of pixels that have ``inputs`` channels, filled up."""
        outputs = _eights(len(weight))
        weight = np.pad(weight, [(0, outputs - len(weight)), (0, inputs - weight.shape[1])])
        packed = weight.reshape(outputs // 8, 8, inputs).transpose(0, 2, 1)
        bias = np.pad(bias, (0, outputs - len(bias)))
        return {"inputs": inputs, "outputs": outputs, "weights": self.append(packed), "bias": self.append(bias)}

    def _layer(
        self, module: nn.Module, activation: str, source: int, target: int, scale: int, added: int | None = None
    ) -> None:
        """Append a layer: a linear map of each pixel, or of each square patch of pixels, or a transposed convolution.
        ``scale`` is that of the pixels it is computed for, before they are enlarged."""
        weight = cast(Tensor, module.get_parameter("weight")).detach().numpy()
        bias = getattr(module, "bias", None)
        bias = np.zeros(len(weight), np.float32) if bias is None else bias.detach().numpy()
        transposed = isinstance(module, nn.ConvTranspose2d)
        inputs, outputs = self.registers[source][0], _eights(weight.shape[1 if transposed else 0])
        if not transposed:
            # (kernel rows, kernel columns, inputs, outputs); the channels of a row of the kernel go together.
            weight = weight.reshape(*weight.shape[:2], *(weight.shape[2:] or (1, 1))).transpose(2, 3, 1, 0)
        else:
            weight = weight.transpose(2, 3, 0, 1)
        weight = np.pad(weight, [(0, 0), (0, 0), (0, inputs - weight.shape[2]), (0, outputs - weight.shape[3])])
        bias = np.pad(bias, (0, outputs - len(bias)))
        stride, patch, taps = 1, 1, 1
        if transposed:
            stride = module.stride[0]
            # What an output pixel of each phase (its place in its block of stride x stride) takes from which neighbour:
            # along each axis, tap t looks t pixels away, up for phase 0 and down for phase 1, with this row of the
            # kernel.
            taps = 2 if stride == 2 else 1
            rows = [
                [phase + 1 - 2 * tap * (2 * phase - 1) if taps == 2 else phase for tap in range(taps)]
                for phase in range(stride)
            ]
            matrices = [
                weight[rows[down][tap_down], rows[across][tap_across]]
                for down in range(stride)
                for across in range(stride)
                for tap_down in range(taps)
                for tap_across in range(taps)
            ]
        else:
            patch = len(weight)
            inputs *= patch
            matrices = list(weight.reshape(patch, inputs, outputs))
        packed = [matrix.reshape(inputs, outputs // 8, 8).transpose(1, 0, 2) for matrix in matrices]
        self.registers[target] = (outputs, scale * stride)
        self.operations.append(
            {
                "kind": "layer",
                "from": source,
                "to": target,
                "add": added,
                "inputs": inputs,
                "outputs": outputs,
                "stride": stride,
                "taps": taps,
                "patch": patch,
                "activation": activation,
                "weights": self.append(np.stack(packed)),
                "bias": self.append(bias),
                "scale": scale,
            }
        )

    def _fresh(self, channels: int, scale: int, *busy: int) -> int:
        """A register of a size that is not busy, an old one where there is one."""
        for number, size in self.registers.items():
            if size == (channels, scale) and number not in busy:
                return number
        self.registers[number := len(self.registers)] = (channels, scale)
        return number

    def _blocks(self, blocks: nn.Module, current: int, scale: int, activation: str, *kept: int) -> int:
        for block in cast(nn.Sequential, blocks):
            first, last = (
                m for m in cast(ResidualBlock, block).body if not isinstance(m, (nn.GELU, nn.ReLU, nn.Identity))
            )
            channels, _ = self.registers[current]
            hidden = _eights(first.get_parameter("weight").shape[0])
            middle = self._fresh(hidden, scale, current, *kept)
            target = self._fresh(channels, scale, current, *kept, middle)
            self._layer(first, activation, current, middle, scale)
            self._layer(last, "none", middle, target, scale, current)
            current = target
        return current

    def _add_network(self, network: StudentNetwork) -> None:
        config = network.config
        activation, rays = config.activation, config.volume_rays
        self.registers[0] = (_eights(config.input_channels), 1)
        seen, added = -1, None  # what the volume shows
        width = _eights(network.head[0].get_parameter("weight").shape[0])
        if rays:
            seen = self._fresh(-(-config.feature_channels // 4) * 4, rays, 0)
            self.operations.append({"kind": "volume", "to": seen})
            added = self._fresh(width, 1, 0, seen)
            self._layer(network.patches, "none", seen, added, 1)
        shallow = self._fresh(width, 1, 0, seen, *() if added is None else (added,))
        self._layer(network.head[0], activation, 0, shallow, 1, added)
        kept = (shallow, seen) if rays > 1 else (shallow,)
        deep = self._blocks(network.body[: network.active_blocks], shallow, 1, activation, *kept)
        current = self._fresh(self.registers[deep][0], 1, deep, *kept)
        self.operations.append({"kind": "sum", "from": deep, "add": shallow, "to": current})
        scale = 1
        for stage in network.super_resolution:
            up = cast(SuperResolution, stage).up
            scale_up, channels, lateral = scale * up.stride[0], _eights(up.out_channels), None
            if scale_up == rays:
                lateral = self._fresh(channels, rays, seen)
                self._layer(network.lateral, "none", seen, lateral, rays)
            target = self._fresh(channels, scale_up, seen, *() if lateral is None else (lateral,))
            self._layer(up, "none", current, target, scale, lateral)
            scale = scale_up
            current = self._blocks(cast(SuperResolution, stage).blocks, target, scale, activation)
        picture = self._fresh(8, scale, current)
        self._layer(network.out[0], "sigmoid", current, picture, scale)
        self.picture = picture


def _eights(count: int) -> int:
    return 8 * math.ceil(count / 8)
