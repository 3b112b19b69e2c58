"""Pruning the student while it is distilled: whole channels and blocks go, in rounds, and the network gets smaller.

What goes are hidden channels of the residual blocks, the backbone's and the super-resolution's, and with its last
channels a whole block. A channel counts by what the picture would lose without it for each multiply-accumulate it
costs. What does not depend on the ray, its mean, is kept: it moves into the bias behind it.

Sources: optimal brain damage (LeCun et al. 1989) with the Gauss-Newton curvature, gates and rounds as in Molchanov et
al. (CVPR 2019), mean compensation as in He et al. (ICCV 2017) reduced to the bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.student.config import NetworkShape, PruningSchedule
from mobiler2l_ns.student.network import ResidualBlock, StudentNetwork, SuperResolution

GROUP = 8
"""Channels that go together: widths stay multiples of it, as the phones' processors like them."""
ROUNDS = 4
"""Rounds that one share is reached in."""
GROWN = 0.9
"""Where the backbone has its full depth, in units of the first round's place: the last blocks learn before they are
judged."""


@dataclass(frozen=True)
class Pruning:
    """How much of the network is to be gone when.

    Args:
        shape: of the network before it is pruned.
        schedule: the shares to prune, and where the rounds lie.

    Raises:
        UserError: if they do not make rounds, or more is to go than can.
    """

    shape: NetworkShape
    schedule: PruningSchedule

    def __post_init__(self) -> None:
        shares, (begin, end) = self.schedule.prune, self.schedule.prune_between
        if list(shares) != sorted(shares) or any(not 0.0 <= share < 1.0 for share in shares):
            raise UserError(f"--pipeline.model.prune {shares}: give shares from 0 to 1 that increase")
        if not 0.0 < begin <= end < 1.0:
            raise UserError(f"--pipeline.model.prune-between {begin} {end}: they must lie between 0 and 1 and increase")
        if not self.wanted:
            return
        most = 1.0 - smallest_macs(self._whole()) / self.macs
        if shares[-1] > most:
            raise UserError(
                f"--pipeline.model.prune {shares[-1]}: at most {most:.2f} of this network lies in channels that can go"
            )

    def _whole(self) -> StudentNetwork:
        with torch.device("meta"):
            return StudentNetwork(self.shape)

    @property
    def wanted(self) -> bool:
        """Whether anything is to be pruned."""
        return any(share > 0.0 for share in self.schedule.prune)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of the whole network, for one ray."""
        return self._whole().macs()

    def rounds(self) -> list[tuple[float, float]]:
        """The progress of each round, and the share of the network's multiply-accumulates that is gone after it."""
        shares, (begin, end) = self.schedule.prune, self.schedule.prune_between
        if not self.wanted:
            return []
        if len(shares) == 1:
            shares = tuple(shares[0] * (index + 1) / ROUNDS for index in range(ROUNDS))
        places = torch.linspace(begin, end, len(shares), dtype=torch.float64).tolist()
        return list(zip(places, shares, strict=True))

    def share(self, progress: float) -> float:
        """The share that is to be gone when ``progress`` (0..1) of distillation is done."""
        return max((share for place, share in self.rounds() if progress >= place), default=0.0)

    def due(self, network: StudentNetwork, progress: float) -> float | None:
        """The multiply-accumulates that may be left for a ray, if the network has more than that."""
        if not self.wanted:
            return None
        macs = (1.0 - self.share(progress)) * self.macs
        return macs if network.macs() > macs else None

    def until(self, growth_until: tuple[float, ...]) -> tuple[float, ...]:
        """The ends of the growing backbone's stages, scaled so that the first round finds it fully grown."""
        if not self.wanted or not growth_until:
            return growth_until
        last = GROWN * self.schedule.prune_between[0]
        return tuple(end * min(1.0, last / max(growth_until)) for end in growth_until)


def smallest_macs(network: StudentNetwork) -> int:
    """Multiply-accumulates for one ray with all channels gone that can go."""
    channels = sum(_cost(block, scale) * block.hidden for block, scale in network.residual_blocks())
    first = next(network.residual_blocks(), None)
    stays = _cost(*first) * min(GROUP, first[0].hidden) if first is not None and len(network.body) else 0
    return network.macs() - channels + stays


def _cost(block: ResidualBlock, scale: int) -> int:
    """Multiply-accumulates of one hidden channel of a block, for one ray: a row of one layer, a column of the other."""
    return 2 * block.body[0].weight.shape[1] * scale**2  # type: ignore[union-attr,index,operator]


# Importance


def channel_moments(
    network: StudentNetwork,
    encoded: Float[Tensor, "n channels h w"],
    features: Float[Tensor, "n f mh mw"] | None = None,
) -> list[Float[Tensor, "4 hidden"]]:
    """What a batch says of each hidden channel, in evaluation mode; moments of several batches may be averaged.

    A channel's part in the picture is linear in a gate on it. The gradient of the picture's values, each with a random
    sign, with respect to the gate squared is on average the squared sum of what all values would change (Hutchinson
    1989), which needs neither the teacher's picture nor an error to learn from. Gates are one a ray: rays are samples
    of their own to a backbone of 1x1 convolutions, so one picture holds thousands.

    Returns:
        For each residual block, in units of the picture's squared values where g is a gate's gradient:
        0: mean g² of a gate that multiplies the channel, 1: mean g g', 2: mean g'² where g' is that of one that is
        added to it, and 3: the channel's mean.
    """
    blocks, seen = list(network.residual_blocks()), {}

    def note(block: ResidualBlock, _: nn.Module, inputs: tuple[Tensor]) -> None:
        seen[block] = inputs[0]

    hooks = [block.tail[0].register_forward_pre_hook(partial(note, block)) for block, _ in blocks if block.hidden]
    training = network.training
    network.eval()
    try:
        with torch.enable_grad():
            picture = network.forward(encoded, features)
        signs = torch.randint(0, 2, picture.shape, device=picture.device) * 2.0 - 1.0
        gradients = dict(zip(seen, torch.autograd.grad(picture, list(seen.values()), signs), strict=True))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    moments = []
    for block, scale in blocks:
        if block not in seen:  # pruned, or not yet grown
            moments.append(torch.zeros(4, block.hidden, device=encoded.device))
            continue
        channel, gradient = seen[block].detach(), gradients[block]
        # Sums over the pixels of each ray.
        scaled, shifted = (functional.avg_pool2d(values, scale) * scale**2 for values in (channel * gradient, gradient))
        squares = torch.stack([scaled * scaled, scaled * shifted, shifted * shifted]).sum((1, 3, 4)) / picture.numel()
        moments.append(torch.cat([squares, channel.mean((0, 2, 3))[None]]))
    return moments


def importance(moments: Float[Tensor, "4 hidden"]) -> Float[Tensor, "hidden"]:
    """By how much the picture's mean squared value would change if a channel were its mean everywhere."""
    scaled, mixed, shifted, mean = moments.double()
    return (scaled - 2.0 * mean * mixed + mean**2 * shifted).clamp(min=0.0)


# Choice


def choose(
    network: StudentNetwork, importances: list[Float[Tensor, "hidden"]], macs: float
) -> list[Int[Tensor, "kept"]]:
    """The hidden channels to keep in each residual block, so that no more than ``macs`` are left for a ray.

    Groups of ``GROUP`` channels of a block go in the order of importance for each multiply-accumulate. The backbone's
    first block keeps one group: the means of the blocks behind it may move there.
    """
    groups, keeps = [], []
    for index, ((block, scale), values) in enumerate(zip(network.residual_blocks(), importances, strict=True)):
        order = values.cpu().argsort(stable=True)
        keeps.append(torch.ones(block.hidden, dtype=torch.bool))
        # Where the width is no multiple of the group, the first to go make it one.
        split = order.split([block.hidden % GROUP, *[GROUP] * (block.hidden // GROUP)])
        for channels in split[:-1] if index == 0 and len(network.body) else split:
            if len(channels):
                cost = _cost(block, scale) * len(channels)
                groups.append((float(values.cpu()[channels].sum()) / cost, index, cost, channels))
    excess = network.macs() - macs
    for _, index, cost, channels in sorted(groups, key=lambda group: group[0]):
        if excess <= 0:
            break
        keeps[index][channels] = False
        excess -= cost
    return [keep.nonzero().flatten() for keep in keeps]


# Removal


@torch.no_grad()
def remove(
    network: StudentNetwork,
    keeps: list[Int[Tensor, "kept"]],
    means: list[Float[Tensor, "hidden"]],
    optimizer: Optimizer | None = None,
) -> None:
    """Shrink the residual blocks to the channels to keep, in the network and in its optimizer's state.

    Args:
        means: of each block's hidden channels, which those that go contribute from now on.
    """
    remaining = zip(keeps, means, strict=True)
    for stream in (network.body, *network.super_resolution):
        bias = None  # of the last layer before the block
        if isinstance(stream, SuperResolution):
            bias, stream = stream.up.bias, stream.blocks
        for block in stream:  # type: ignore[union-attr]
            assert isinstance(block, ResidualBlock)
            (kept, mean), tail = next(remaining), block.tail
            if len(kept) < block.hidden:
                weight: Tensor = tail[0].weight  # type: ignore[assignment]
                gone = mean.clone()
                gone[kept.to(mean.device)] = 0.0
                if len(kept):
                    tail[0].bias += weight.flatten(1) @ gone  # type: ignore[operator]
                else:
                    assert bias is not None
                    tail.eval()
                    bias += tail(mean[None, :, None, None]).flatten()
                block.keep(kept, optimizer)
            if block.hidden:
                bias = tail[-1].bias


def prune(
    network: StudentNetwork, moments: list[Float[Tensor, "4 hidden"]], macs: float, optimizer: Optimizer | None = None
) -> None:
    """One round: leave no more than ``macs`` multiply-accumulates for a ray, see ``StudentNetwork.macs``."""
    keeps = choose(network, [importance(values) for values in moments], macs)
    remove(network, keeps, [values[3] for values in moments], optimizer)


def describe(network: StudentNetwork) -> str:
    """What is left of the blocks and their hidden channels."""
    left = [block.hidden for block, _ in network.residual_blocks()]
    return f"{sum(width > 0 for width in left)} of {len(left)} residual blocks, {sum(left)} hidden channels"
