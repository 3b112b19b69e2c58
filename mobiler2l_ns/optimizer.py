"""AdamW, which nerfstudio has no configuration for."""

from __future__ import annotations

from dataclasses import dataclass

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
