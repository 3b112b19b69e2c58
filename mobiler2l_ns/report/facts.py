"""Everything a report says of a run, collected from its run, its log and its folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from mobiler2l_ns import devices
from mobiler2l_ns.export.manifest import student_digest
from mobiler2l_ns.progress.records import FILE, read_log
from mobiler2l_ns.report.coverage import Coverage, coverage_of
from mobiler2l_ns.report.event_files import records_of_event_files
from mobiler2l_ns.report.history import History
from mobiler2l_ns.report.measure import Measured, measure
from mobiler2l_ns.report.run import ReportedRun
from mobiler2l_ns.student.cost import StudentCost, measure_cost


@dataclass
class Facts:
    """A run and what it has come to."""

    experiment: str
    method: str
    capture: str
    config_path: Path
    config: str
    """The text of config.yml."""
    step: int
    """Last step that was trained."""
    steps: int
    """Of all phases."""
    measured: Measured
    history: History
    coverage: Coverage
    cost: StudentCost
    """Of the student's full picture."""
    picture: tuple[int, int]
    """Width and height of the student's full picture in pixels."""
    checkpoint_bytes: int | None
    pool_bytes: int | None
    """Of the pseudo views in memory; None where the run was opened, not trained."""
    student_sha256: str
    """Which student this is, as manifest.json says it."""
    written: str
    device: str
    """On which frames were timed."""
    versions: dict[str, str]
    """Of what measured and wrote."""


def collect(run: ReportedRun, config_path: Path, step: int, most_views: int) -> Facts:
    """Measure a run.

    Args:
        run: trained or opened again; it stays in evaluation mode.
        config_path: of the run, with its log and its checkpoints beside it.
        step: last step that was trained.
        most_views: test views to measure.

    Raises:
        UserError: if the capture holds out no views.
    """
    text = config_path.read_text(encoding="utf8")
    config = yaml.load(text, Loader=yaml.Loader)
    measured = measure(run, most_views)
    datamanager, student = run.datamanager, run.model.student
    checkpoints = sorted((config_path.parent / config.relative_model_dir).glob("step-*.ckpt"))
    height, width = student.capture.size()
    pool, folder = datamanager.pool, config_path.parent
    records = read_log(folder / FILE) or records_of_event_files(folder, run.plan)
    return Facts(
        experiment=config.experiment_name,
        method=config.method_name,
        capture=str(datamanager.config.data),
        config_path=config_path,
        config=text,
        step=step,
        steps=run.plan.total,
        measured=measured,
        history=History.of(records),
        coverage=coverage_of(datamanager, measured.poses),
        cost=measure_cost(student.network, height, width),
        picture=(width, height),
        checkpoint_bytes=checkpoints[-1].stat().st_size if checkpoints else None,
        pool_bytes=None if pool is None else pool.pictures.nelement(),
        student_sha256=student_digest(student),
        written=time.strftime("%Y-%m-%d %H:%M"),
        device=devices.device_name(run.device),
        versions=devices.versions(),
    )
