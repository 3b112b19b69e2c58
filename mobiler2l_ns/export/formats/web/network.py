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

    def _append(self, values: NDArray[np.float32]) -> int:
        """Index of values in the array; each begins at a multiple of eight."""
        start, data = self.values, values.astype(self.dtype).tobytes()
        self.chunks.append(data)
        self.values += values.size
        return start

    def _layer(
        self, module: nn.Module, activation: str, source: int, target: int, scale: int, added: int | None = None
    ) -> None:
        """Append a layer: a linear map of each pixel, or a transposed convolution."""
        weight, bias = (cast(Tensor, module.get_parameter(name)).detach().numpy() for name in ("weight", "bias"))
        stride = 1
        if isinstance(module, nn.ConvTranspose2d):
            stride = module.stride[0]
            weight = weight.transpose(2, 3, 0, 1)  # kernel rows and columns, inputs, outputs
        else:
            weight = weight.reshape(*weight.shape[:2]).T[None, None]
        inputs, outputs = (8 * math.ceil(count / 8) for count in weight.shape[2:])
        weight = np.pad(weight, [(0, 0), (0, 0), (0, inputs - weight.shape[2]), (0, outputs - weight.shape[3])])
        bias = np.pad(bias, (0, outputs - len(bias)))
        # What an output pixel of each phase (its place in its block of stride x stride) takes from which neighbour:
        # along each axis, tap t looks t pixels away, up for phase 0 and down for phase 1, with this row of the kernel.
        taps = 2 if stride == 2 else 1
        rows = [
            [phase + 1 - 2 * tap * (2 * phase - 1) if taps == 2 else phase for tap in range(taps)]
            for phase in range(stride)
        ]
        packed = [
            weight[rows[down][tap_down], rows[across][tap_across]].reshape(inputs, outputs // 8, 8).transpose(1, 0, 2)
            for down in range(stride)
            for across in range(stride)
            for tap_down in range(taps)
            for tap_across in range(taps)
        ]
        self.registers.setdefault(source, (inputs, scale))
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
                "activation": activation,
                "weights": self._append(np.stack(packed)),
                "bias": self._append(bias),
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

    def _blocks(self, blocks: nn.Module, current: int, scale: int, activation: str, kept: int = -1) -> int:
        for block in cast(nn.Sequential, blocks):
            first, last = (
                m for m in cast(ResidualBlock, block).body if not isinstance(m, (nn.GELU, nn.ReLU, nn.Identity))
            )
            channels, _ = self.registers[current]
            hidden = 8 * math.ceil(first.get_parameter("weight").shape[0] / 8)
            middle = self._fresh(hidden, scale, current, kept)
            target = self._fresh(channels, scale, current, kept, middle)
            self._layer(first, activation, current, middle, scale)
            self._layer(last, "none", middle, target, scale, current)
            current = target
        return current

    def _add_network(self, network: StudentNetwork) -> None:
        activation = network.config.activation
        self.registers[0] = (8 * math.ceil(network.config.input_channels / 8), 1)
        features = 1
        self._layer(network.head[0], activation, 0, features, 1)
        deep = self._blocks(network.body[: network.active_blocks], features, 1, activation, features)
        current = self._fresh(self.registers[deep][0], 1, deep, features)
        self.operations.append({"kind": "sum", "from": deep, "add": features, "to": current})
        scale = 1
        for stage in network.super_resolution:
            up = cast(SuperResolution, stage).up
            scale_up = scale * up.stride[0]
            target = self._fresh(8 * math.ceil(up.out_channels / 8), scale_up)
            self._layer(up, "none", current, target, scale)
            scale = scale_up
            current = self._blocks(cast(SuperResolution, stage).blocks, target, scale, activation)
        picture = self._fresh(8, scale, current)
        self._layer(network.out[0], "sigmoid", current, picture, scale)
        self.picture = picture
