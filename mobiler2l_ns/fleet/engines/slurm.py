"""Slurm, through submitit: runs of one teacher are one job array. submitit's local executor stands in for Slurm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.fleet.engines import Handle
from mobiler2l_ns.fleet.run_one import do_run

MINUTES = 24 * 60
"""Limit of a job's time where the fleet file has none. A run that reaches it is put back into the queue and resumed."""


class Unfinished(RuntimeError):
    """A job's end as Slurm should see it, failed."""


class DoRun:
    """What a job does. submitit hands it over again when Slurm takes the machine away or its time is up."""

    def __call__(self, folder: str, tries: int) -> str:
        """Do a run."""
        status = do_run(Path(folder), tries).status
        if status != "done":
            raise Unfinished(f"{folder}: {status}")
        return status

    def checkpoint(self, *arguments: Any) -> Any:
        """What to do after the interruption: the same, since all that counts is on disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)


@dataclass
class SlurmHandle:
    """A job of submitit's."""

    job: Any
    name: str

    def ended(self) -> bool:
        return self.job.done()

    def reason(self) -> str:
        error = self.job.exception()
        return "" if error is None else (str(error).strip().splitlines() or [type(error).__name__])[-1]


class SlurmEngine:
    """Slurm, or its stand-in on this machine.

    Args:
        folder: for submitit's scripts and logs, on storage that all machines see.
        parameters: of sbatch, as submitit names them: time (minutes), partition, mem, array_parallelism, ...
        gpus, cpus: of each run; whole GPUs. None: one GPU, or none by the stand-in.
        tries: of a run's commands.
        local: the stand-in, which begins all runs at once.

    Raises:
        UserError: if submitit is not installed, this is no Slurm cluster, or a parameter is unknown.
    """

    def __init__(
        self,
        folder: Path,
        parameters: dict[str, Any],
        gpus: float | None,
        cpus: float | None,
        tries: int,
        local: bool = False,
    ) -> None:
        try:
            import submitit
        except ImportError:
            raise UserError("submitit is not installed: pip install '.[fleet]'") from None
        self.gpus = gpus if gpus is not None else float(not local)
        if self.gpus != int(self.gpus):
            raise UserError(f"gpus: Slurm gives whole GPUs, not {self.gpus:g}: leave --gpus to Ray, or give 0 or more")
        self._local, self._tries, self.orders = local, tries, not local
        if local:
            self._executor: Any = submitit.LocalExecutor(folder)
            self._executor.update_parameters(timeout_min=parameters.get("time", MINUTES), gpus_per_node=int(self.gpus))
            return
        wanted = {"job_name": "mobiler2l", "time": MINUTES, **parameters}
        if self.gpus:
            wanted["gpus_per_node"] = int(self.gpus)
        if cpus is not None:
            wanted["cpus_per_task"] = max(1, round(cpus))
        try:
            self._executor = submitit.SlurmExecutor(folder, max_num_timeout=1000)
            self._executor.update_parameters(**wanted)
        except RuntimeError:
            raise UserError("This machine knows no Slurm (there is no srun): choose --engine ray") from None
        except ValueError as error:
            unknown, _, known = str(error).partition("\n")
            raise UserError(f"slurm: {unknown}; known: {' '.join(known.split())}") from None
        self._given = dict(self._executor.parameters)

    def submit(self, folders: Sequence[Path], after: Handle | None) -> list[SlurmHandle]:
        if not self._local:
            # afterany, not afterok: a student of a teacher that has failed says so and ends, where Slurm would keep it
            # in the queue for good.
            more = {"dependency": f"afterany:{after.name}"} if after is not None else {}
            self._executor.parameters = {**self._given, **more}
        with self._executor.batch():
            jobs = [self._executor.submit(DoRun(), str(folder), self._tries) for folder in folders]
        return [SlurmHandle(job, str(job.job_id)) for job in jobs]

    def find(self, name: str) -> SlurmHandle | None:
        if self._local:
            return None
        import submitit

        job = submitit.SlurmJob(folder=self._executor.folder, job_id=name)
        state = job.watcher.get_state(name, mode="force")
        return None if job.watcher.is_done(name) or state == "UNKNOWN" else SlurmHandle(job, name)

    def close(self) -> None:
        pass  # jobs go on without a driver
