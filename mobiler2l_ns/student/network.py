"""The student network: a residual backbone of 1x1 convolutions on low-resolution rays, then super-resolution.

Source: MobileR2L (Cao et al., CVPR 2023) §3.2-3.3 and its official release; its settings are ``config.NetworkShape``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from mobiler2l_ns.student.config import Activation, NetworkShape


class PointwiseLinear(nn.Linear):
    """A linear map over the channels of an NCHW map: the MLP twin of a 1x1 convolution."""

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution. In training it is computed as one matrix product over the channels_last map, which is what it
    is, without the copies that convolution libraries make around it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=1)

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        if not self.training:
            return super().forward(input)
        rows = functional.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
        return rows.permute(0, 3, 1, 2)


def _activation(name: Activation) -> nn.Module:
    return {"gelu": nn.GELU, "relu": nn.ReLU, "none": nn.Identity}[name]()


def _layer(kind: str, inputs: int, outputs: int) -> nn.Module:
    return PointwiseLinear(inputs, outputs) if kind == "mlp" else PointwiseConv(inputs, outputs)


def _shrink(tensor: Tensor, dim: int, kept: Int[Tensor, "n"], optimizer: torch.optim.Optimizer | None) -> None:
    """Keep some of a parameter's or buffer's slices, in place: modules and optimizers hold on to the same tensor."""

    def sliced(values: Tensor) -> Tensor:
        layout = torch.channels_last if values.dim() == 4 else torch.contiguous_format
        return values.index_select(dim, kept.to(values.device)).contiguous(memory_format=layout)

    before, values = tensor.shape, sliced(tensor.data)
    # A change of type is what makes torch forget the gradient accumulator, which would expect the old shape as long as
    # a graph or a DistributedDataParallel keeps it alive.
    tensor.data = torch.empty(0, dtype=torch.half, device=tensor.device)
    tensor.data, tensor.grad = values, None
    state = {} if optimizer is None else optimizer.state.get(tensor, {})
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == before:
            state[name] = sliced(value)


class ResidualBlock(nn.Module):
    """``x + [layer, norm, activation, layer, norm](x)``; no activation after the sum (paper Fig. 4).

    Pruning makes the hidden channels, those between the two layers, fewer. A block without any is gone: its parameters
    are empty and it returns ``x``. A block takes on the width of a state it loads.
    """

    def __init__(self, channels: int, activation: Activation, norm: bool, layer: str = "conv1x1") -> None:
        super().__init__()

        def normed() -> list[nn.Module]:
            return [_layer(layer, channels, channels)] + ([nn.BatchNorm2d(channels)] if norm else [])

        self.body = nn.Sequential(*normed(), _activation(activation), *normed())

    @property
    def hidden(self) -> int:
        """Channels between the two layers."""
        return len(cast(Tensor, self.body[0].weight))

    @property
    def tail(self) -> nn.Sequential:
        """The second layer and its norm."""
        return self.body[len(self.body) // 2 + 1 :]

    @torch.no_grad()
    def keep(self, channels: Int[Tensor, "n"], optimizer: torch.optim.Optimizer | None = None) -> None:
        """Keep these hidden channels only, in the parameters and in what the optimizer knows of them."""
        middle = len(self.body) // 2
        last = self.tail[0]
        for module in self.body[:middle]:
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.dim() > 0:
                    _shrink(tensor, 0, channels, optimizer)
        _shrink(cast(Tensor, last.weight), 1, channels, optimizer)
        if len(channels) == 0:
            for module in self.tail:
                for tensor in (*module.parameters(), *module.buffers()):
                    if tensor.dim() == 1:
                        _shrink(tensor, 0, channels, optimizer)
        for module in (*self.body[:middle], *(self.tail if len(channels) == 0 else ())):
            for width in ("num_features", "out_channels", "out_features"):
                if hasattr(module, width):
                    setattr(module, width, len(channels))
        setattr(last, "in_channels" if hasattr(last, "in_channels") else "in_features", len(channels))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        first = state_dict.get(f"{prefix}body.0.weight")
        if first is not None and len(first) < self.hidden:
            self.keep(torch.arange(len(first)))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return x + self.body(x) if self.hidden else x


class SuperResolution(nn.Module):
    """One super-resolution module: a transposed convolution (k4 s2 p1, or k3 s3), then residual blocks."""

    def __init__(self, inputs: int, outputs: int, stride: int, blocks: int, activation: Activation, norm: bool) -> None:
        super().__init__()
        kernel, padding = (4, 1) if stride == 2 else (3, 0)
        self.up = nn.ConvTranspose2d(inputs, outputs, kernel, stride=stride, padding=padding)
        self.blocks = nn.Sequential(*(ResidualBlock(outputs, activation, norm) for _ in range(blocks)))

    def forward(
        self, x: Float[Tensor, "n c h w"], beside: Float[Tensor, "n d sh sw"] | None = None
    ) -> Float[Tensor, "n d sh sw"]:
        """Args: the map to enlarge, and one to add to the enlarged one."""
        x = self.up(x)
        return self.blocks(x if beside is None else x + beside)


class StudentNetwork(nn.Module):
    """Encoded low-resolution rays in, picture out.

    Example:
        >>> network = StudentNetwork(NetworkShape(width=16, num_blocks=2)).eval()
        >>> network(torch.zeros(1, 312, 5, 4)).shape
        torch.Size([1, 3, 40, 32])
    """

    def __init__(self, config: NetworkShape) -> None:
        """Raises: UserError if the settings make no network."""
        super().__init__()
        config.check()
        self.config = config
        width, activation, norm = config.width, config.activation, config.norm
        features, rays = config.feature_channels, config.volume_rays
        self.head = nn.Sequential(_layer(config.layer, config.input_channels, width), _activation(activation))
        if features:
            self.patches = nn.Conv2d(features, width, rays, stride=rays, bias=False)
        self.body = nn.Sequential(
            *(ResidualBlock(width, activation, norm, config.layer) for _ in range(config.num_blocks))
        )
        stages, channels, scale = [], width, 1
        for outputs, stride in zip(config.stage_channels(), config.strides, strict=True):
            stages.append(SuperResolution(channels, outputs, stride, config.sr_blocks, activation, norm))
            channels, scale = outputs, scale * stride
            if features and scale == rays:
                self.lateral = PointwiseConv(features, outputs)
        self.super_resolution = nn.Sequential(*stages)
        self.out = nn.Sequential(PointwiseConv(channels, config.output_channels), nn.Sigmoid())
        self.active_blocks = config.num_blocks
        if config.initialisation == "identity":
            begin_as_identity(self)

    def forward(
        self, encoded: Float[Tensor, "n channels h w"], features: Float[Tensor, "n f mh mw"] | None = None
    ) -> Float[Tensor, "n colours sh sw"]:
        """Picture of rays.

        Args:
            encoded: rays, see ``encoding.encode``.
            features: what the volume shows of them, see ``volume.Volume``.

        Returns:
            RGB or premultiplied RGBA in 0..1, ``stride`` times as high and wide.
        """
        layer, activation = self.head
        shallow = layer(encoded) if features is None else layer(encoded) + self.patches(features)
        shallow = deep = activation(shallow)
        for block in islice(self.body, self.active_blocks):
            deep = block(deep)
        picture, scale = deep + shallow, 1
        for stage in self.super_resolution:
            scale *= cast(SuperResolution, stage).up.stride[0]
            lateral = features is not None and scale == self.config.volume_rays
            picture = stage(picture, self.lateral(features) if lateral else None)
        return self.out(picture)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups: one of each backbone block, which names it, and one of all the rest."""
        blocks = [{"params": list(block.parameters()), "block": i} for i, block in enumerate(self.body)]
        rest = [p for name, p in self.named_parameters() if not name.startswith("body.")]
        return [{"params": rest}, *blocks]

    def residual_blocks(self) -> Iterator[tuple[ResidualBlock, int]]:
        """All residual blocks from input to output, and the pixels a ray has, each way, in the maps they work on."""
        for block in self.body:
            yield cast(ResidualBlock, block), 1
        scale = 1
        for stage in self.super_resolution:
            scale *= cast(SuperResolution, stage).up.stride[0]
            for block in cast(SuperResolution, stage).blocks:
                yield cast(ResidualBlock, block), scale

    def macs(self) -> int:
        """Multiply-accumulates for one ray, all blocks active."""
        head, out = (cast(Tensor, part[0].weight).numel() for part in (self.head, self.out))
        count, scale = head, 1
        for part, rays in (("patches", 1), ("lateral", self.config.volume_rays)):
            if hasattr(self, part):
                count += getattr(self, part).weight.numel() * rays**2
        for stage in self.super_resolution:
            up = cast(SuperResolution, stage).up
            count += up.weight.numel() * scale**2  # each input pixel meets the whole kernel
            scale *= up.stride[0]
        blocks = ((p.numel(), s) for block, s in self.residual_blocks() for p in block.parameters() if p.dim() > 1)
        return count + out * scale**2 + sum(weights * s**2 for weights, s in blocks)

    @torch.no_grad()
    def begin_with(self, colour: Float[Tensor, "colours"]) -> None:
        """Let the output begin around a colour in 0..1, such as the pseudo views' mean."""
        bias = self.out[0].bias
        assert isinstance(bias, Tensor)
        bias.copy_(torch.logit(colour.to(bias), eps=1e-3))


@torch.no_grad()
def begin_as_identity(network: StudentNetwork) -> None:
    """Initialise a network so that any depth of it trains at the same rate, and low frequencies come first.

    Each residual branch ends in zeros (Fixup, Zhang et al. 2019; ReZero, Bachlechner et al. 2020), so a block does
    nothing until it has learned something. The head's weight on frequency 2^i begins 2^-i as large as on the
    coordinate itself. Transposed convolutions begin as bilinear interpolation of random mixtures of their inputs.
    """
    config = network.config
    for block in network.modules():
        if isinstance(block, ResidualBlock):
            first, last = (layer for layer in block.body if isinstance(layer, (nn.Conv2d, nn.Linear)))
            nn.init.kaiming_normal_(first.weight, nonlinearity="relu")
            for zero in (first.bias, last.weight, last.bias):
                nn.init.zeros_(zero)  # type: ignore[arg-type]
    head = cast("nn.Conv2d | nn.Linear", network.head[0])
    nn.init.kaiming_normal_(head.weight, nonlinearity="relu")
    nn.init.zeros_(head.bias)  # type: ignore[arg-type]
    falling = 0.5 ** torch.arange(config.num_frequencies)
    channel = torch.cat([falling, falling, torch.ones(1)]).repeat(3 * config.num_points)
    channel = channel * (len(channel) / channel.square().sum()).sqrt()
    if config.volume_rays > 1:
        nn.init.zeros_(network.lateral.weight)
        nn.init.zeros_(network.lateral.bias)  # type: ignore[arg-type]
    head.weight[:, : len(channel)].mul_(channel.reshape(1, -1, *[1] * (head.weight.dim() - 2)))
    for stage in network.super_resolution:
        up = cast(SuperResolution, stage).up
        if up.stride[0] == 2:
            ramp = torch.tensor([0.25, 0.75, 0.75, 0.25])
            mixture = torch.randn(up.in_channels, up.out_channels, 1, 1) / math.sqrt(up.in_channels)
            up.weight.copy_(mixture * ramp[:, None] * ramp)
            nn.init.zeros_(up.bias)  # type: ignore[arg-type]
