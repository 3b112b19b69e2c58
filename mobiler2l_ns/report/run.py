"""What a report sees of a run."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from mobiler2l_ns.pool.datamanager import MobileR2LDataManager
from mobiler2l_ns.progress.phases import PhasePlan
from mobiler2l_ns.student.model import MobileR2LModel


class ReportedRun(Protocol):
    """A run that has just been trained, or was opened again."""

    plan: PhasePlan

    @property
    def model(self) -> MobileR2LModel:
        """Student and teacher."""
        ...

    @property
    def datamanager(self) -> MobileR2LDataManager:
        """The capture."""
        ...

    @property
    def device(self) -> torch.device | str:
        """Where it is measured."""
        ...

    def eval(self) -> Any:
        """Turn evaluation mode on."""
        ...
