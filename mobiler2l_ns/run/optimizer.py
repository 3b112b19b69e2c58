"""The student's optimizers: AdamW, and Muon for its matrices."""

# torch's optimizers are made of torch._foreach_*, which are not declared as public.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.engine.optimizers import OptimizerConfig
from torch import Tensor

from mobiler2l_ns.devices import multiplies_bfloat16

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of x, x^3 and x^5 that bring singular values from 0..1 towards 1 fastest (Jordan et al. 2024)."""
ROUNDS = 5
COLOURS = 4
"""Maps to no more channels than these are the picture's; no directions are to be made equal there."""


def orthogonalised(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """Matrices with the same singular vectors and singular values of about one (0.7 to 1.2).

    Newton-Schulz iterations of all matrices at once, in bfloat16 where the device multiplies it, else in float32.
    (torch's own Muon, which newer versions have, takes them one by one.)
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    if multiplies_bfloat16(x.device.type):
        x = x.bfloat16()
    first, third, fifth = QUINTIC
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=third, alpha=fifth), x, beta=first)
    return (x.mT if tall else x).to(matrices)


class Muon(torch.optim.AdamW):
    """AdamW whose matrices move by their orthogonalised momentum (Muon, Jordan et al. 2024).

    What few rays ask of a layer is then learned as fast as what all of them do. Convolutions count as matrices, their
    kernel among the columns; biases, norms and the map to colours keep AdamW's steps.

    Args:
        params: parameter groups; their learning rate is AdamW's. Matrices follow its changes: at the rate a group began
            with they move at ``matrix_lr``.
        matrix_lr: spectral norm of a step of a matrix that is not taller than wide.
        momentum: decay of the running mean of a matrix's gradient, with Nesterov's look ahead.
    """

    def __init__(self, params: Any, matrix_lr: float, momentum: float, **settings: Any) -> None:
        super().__init__(params, **settings)
        # Gradient scalers hand their scale to fused kernels; here gradients must come unscaled.
        self._step_supports_amp_scaling = False
        self.momentum = momentum
        # A group whose rate is zero is one to leave alone.
        self.units = [matrix_lr / group["lr"] if group["lr"] else 0.0 for group in self.param_groups]
        # By what they are when the run begins: pruning makes them smaller.
        self.matrices = {
            parameter
            for group in self.param_groups
            for parameter in group["params"]
            if "volume" not in group and parameter.dim() > 1 and min(parameter.shape[:2]) > COLOURS
        }
        # Around AdamW's step, and not in a step of its own that calls it: hooks would be called by both.
        self._held: dict[Tensor, Tensor] = {}
        self.register_step_pre_hook(self._move_matrices)
        self.register_step_post_hook(self._give_gradients_back)

    @torch.no_grad()
    def _move_matrices(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(callable(each) for each in (*args[1:], *kwargs.values())):
            raise NotImplementedError("Muon takes no closure: its gradients are there before the step")
        self._held = {p: p.grad for p in self.matrices if p.grad is not None}
        self._move(self._held)
        for matrix in self._held:
            matrix.grad = None  # none of AdamW's business

    def _give_gradients_back(self, *_: Any) -> None:
        for matrix, gradient in self._held.items():
            matrix.grad = gradient
        self._held = {}

    def _move(self, gradients: dict[Tensor, Tensor]) -> None:
        alike: dict[tuple[int, int, float, float], list[Tensor]] = defaultdict(list)
        for group, unit in zip(self.param_groups, self.units, strict=True):
            for matrix in group["params"]:
                if matrix in gradients and matrix.numel():
                    rate, decay = group["lr"] * unit, group["lr"] * group["weight_decay"]
                    alike[(len(matrix), matrix[0].numel(), rate, decay)].append(matrix)
        for (rows, columns, rate, decay), matrices in alike.items():
            ahead = torch.stack([each.flatten(1) for each in self._ahead(matrices, [gradients[m] for m in matrices])])
            # A tall matrix's step is larger, so that outputs change at the same pace whatever the shape.
            steps = orthogonalised(ahead).mul_(-rate * max(1.0, rows / columns) ** 0.5)
            # One kernel a shape in place of one a matrix.
            torch._foreach_mul_(matrices, 1.0 - decay)
            torch._foreach_add_(matrices, [step.view(m.shape) for step, m in zip(steps, matrices, strict=True)])

    def _ahead(self, matrices: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Nesterov's look ahead of each matrix."""
        for matrix in matrices:
            if "momentum" not in self.state[matrix]:
                # AdamW looks for "step" in whatever state it loads.
                self.state[matrix] |= {"step": torch.zeros(()), "momentum": torch.zeros_like(matrix)}
        torch._foreach_add_([self.state[matrix]["step"] for matrix in matrices], 1.0)
        momenta = [self.state[matrix]["momentum"] for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1.0 - self.momentum)
        return list(torch._foreach_lerp(gradients, momenta, self.momentum))


@dataclass
class AdamWOptimizerConfig(OptimizerConfig):
    """Adam with decoupled weight decay."""

    _target: type = torch.optim.AdamW
    """Target class to instantiate."""
    eps: float = 1e-8
    """Added to the denominator."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of the gradient and its square."""
    weight_decay: float = 0.01
    """Decay of the weights per step, times the learning rate."""
    block_lr: float = 1.0
    """Learning rate of the backbone's residual blocks, in units of --lr."""
    planes_lr: float = 0.02
    """Learning rate of the volume's planes."""

    def setup(self, params: Any) -> torch.optim.Optimizer:
        """Args: parameters, or groups of them as ``StudentNetwork.parameter_groups`` makes them."""
        groups = [{**group, **self._of(group)} if isinstance(group, dict) else group for group in params]
        first = groups[0]["params"][0] if isinstance(groups[0], dict) else groups[0]
        return self._target(
            groups,
            lr=self.lr,
            eps=self.eps,
            betas=self.betas,
            weight_decay=self.weight_decay,
            # One kernel for all parameters in place of one an operation; older versions of torch have it on GPUs only.
            fused=first.is_cuda or tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4),
            **self._more(),
        )

    def _of(self, group: dict[str, Any]) -> dict[str, Any]:
        if "block" in group:
            return {"lr": self.lr * self.block_lr}
        if "volume" in group:
            return {"lr": self.planes_lr if group["volume"] == "planes" else self.lr, "weight_decay": 0.0}
        return {}

    def _more(self) -> dict[str, Any]:
        return {}


@dataclass
class MuonOptimizerConfig(AdamWOptimizerConfig):
    """Muon for the matrices; the fields of AdamW are for all other parameters."""

    _target: type = Muon
    """Target class to instantiate."""
    matrix_lr: float = 0.01
    """Spectral norm of a matrix's step at the full rate; it follows the schedule as the learning rate does."""
    momentum: float = 0.95
    """Decay of the running mean of a matrix's gradient."""

    def _more(self) -> dict[str, Any]:
        return {"matrix_lr": self.matrix_lr, "momentum": self.momentum}
