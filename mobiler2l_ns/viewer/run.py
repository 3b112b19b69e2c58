"""What the viewer sees of a run."""

from __future__ import annotations

from typing import Protocol

from mobiler2l_ns.pool.datamanager import MobileR2LDataManager
from mobiler2l_ns.progress.log import RunLog
from mobiler2l_ns.progress.phases import PhasePlan
from mobiler2l_ns.student.model import MobileR2LModel


class ViewedRun(Protocol):
    """A run that is trained, or opened to be looked at."""

    plan: PhasePlan
    log: RunLog

    @property
    def model(self) -> MobileR2LModel:
        """Student and teacher."""
        ...

    @property
    def datamanager(self) -> MobileR2LDataManager:
        """Photos and pseudo views."""
        ...
