"""Ray Core: on this machine, or on a cluster that is there. Each run is a task."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.fleet.engines import Handle
from mobiler2l_ns.fleet.run_one import do_run


@dataclass
class RayHandle:
    """A task of Ray's."""

    result: Any
    name: str = ""

    def ended(self) -> bool:
        import ray

        return bool(ray.wait([self.result], timeout=0)[0])

    def reason(self) -> str:
        import ray

        try:
            ray.get(self.result)
        except Exception as error:
            return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return ""


def _do(folder: str, tries: int, _after: Any) -> str:
    return do_run(Path(folder), tries).status


class RayEngine:
    """Ray Core.

    Args:
        address: of a cluster; None: a cluster of this machine alone, which ends with this process.
        gpus, cpus: of each run, fractions allowed; None: one GPU where there is one and the CPU that leads it, or all
            of this machine's CPUs.
        tries: how often Ray does a run again whose worker it has lost.

    Raises:
        UserError: if Ray is not installed, or not there.
    """

    orders = True

    def __init__(self, address: str | None, gpus: float | None, cpus: float | None, tries: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise UserError("Ray is not installed: pip install '.[fleet]', or choose --engine slurm") from None
        try:
            # Ray starts the process of its dashboard without the packages of it, too, and complains of a slow machine.
            board = None if address is not None else importlib.util.find_spec("aiohttp_cors") is not None
            ray.init(address=address, include_dashboard=board, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # a slow start is no kind of its own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            where = "Ray does not start here" if address is None else f"There is no Ray cluster at {address}"
            raise UserError(f"{where}: {reason}") from None
        there = ray.cluster_resources()
        self.gpus = gpus if gpus is not None else float(there.get("GPU", 0) >= 1)
        if cpus is None:
            cpus = 1.0 if self.gpus else max(1.0, min(there.get("CPU", 1.0), os.cpu_count() or 1))
        for name, wanted in (("GPU", self.gpus), ("CPU", cpus)):
            if address is None and wanted > there.get(name, 0):
                ray.shutdown()
                raise UserError(f"A run asks for {wanted:g} {name}s, and there are {there.get(name, 0):g} here")
        self._tries = tries
        self._task = ray.remote(num_gpus=self.gpus, num_cpus=cpus, max_retries=tries)(_do)

    def submit(self, folders: Sequence[Path], after: Handle | None) -> list[RayHandle]:
        result = after.result if isinstance(after, RayHandle) else None
        return [RayHandle(self._task.remote(str(folder), self._tries, result)) for folder in folders]

    def find(self, name: str) -> RayHandle | None:
        return None  # tasks end with the driver that asked for them

    def close(self) -> None:
        import ray

        ray.shutdown()
