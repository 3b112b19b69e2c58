"""AdamW for the student, whose backbone learns at a rate of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from nerfstudio.engine.optimizers import OptimizerConfig


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

    def setup(self, params: Any) -> torch.optim.Optimizer:
        """Args: parameters, or groups of them as ``StudentNetwork.parameter_groups`` makes them."""
        groups = [
            {**group, "lr": self.lr * self.block_lr} if isinstance(group, dict) and "block" in group else group
            for group in params
        ]
        first = groups[0]["params"][0] if isinstance(groups[0], dict) else groups[0]
        return self._target(
            groups,
            lr=self.lr,
            eps=self.eps,
            betas=self.betas,
            weight_decay=self.weight_decay,
            # One kernel for all parameters in place of one an operation; older versions of torch have it on GPUs only.
            fused=first.is_cuda or tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4),
        )
