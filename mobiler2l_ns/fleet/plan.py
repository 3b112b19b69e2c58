"""Captures times methods: the runs of a fleet, each known by what decides what it trains."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from mobiler2l_ns.capture.formats import colmap_place, format_of
from mobiler2l_ns.fleet.job import Job
from mobiler2l_ns.fleet.spec import Capture, FleetSpec, Method, as_arguments

TEACHER_ONLY = {"pipeline.distill-steps": 0, "pipeline.finetune-steps": 0, "report-views": 0}
"""Settings with which a run of this plugin trains its teacher and stops."""
QUIET = {"vis": "tensorboard", "viewer.quit-on-train-completion": True}
"""Settings of every run, unless the file has others: no viewer that keeps a run open."""


@dataclass(frozen=True)
class Plan:
    """All runs of a fleet, teachers before their students."""

    output: Path
    jobs: tuple[Job, ...]

    def folder(self, job: Job) -> Path:
        """Of a run."""
        return self.output / job.key


def plan_fleet(spec: FleetSpec) -> Plan:
    """The runs of a fleet file."""
    teachers: dict[tuple[str, str], Job] = {}
    students: list[Job] = []
    for capture in spec.captures:
        for method in spec.methods:
            teacher = None
            if method.teacher is not None:
                place = (capture.name, method.teacher)
                teacher = teachers.setdefault(place, _job(spec, capture, spec.teachers[method.teacher], None, True))
            students.append(_job(spec, capture, method, teacher, False))
    return Plan(spec.output, (*teachers.values(), *students))


def dataparser_words(capture: Capture) -> list[str]:
    """The dataparser's subcommand of ns-train, and its options."""
    if capture.dataparser is not None:
        return list(capture.dataparser)
    form = format_of(capture.path)
    if form == "colmap":
        return ["colmap", "--colmap-path", str(colmap_place(capture.path))]
    return ["blender-data"] if form == "blender" else []


def _job(spec: FleetSpec, capture: Capture, method: Method, teacher: Job | None, is_teacher: bool) -> Job:
    only = TEACHER_ONLY if is_teacher and method.method.startswith("mobiler2l") else {}
    settings = {**only, **method.settings, **capture.settings}
    parser = dataparser_words(capture)
    identity = {
        "capture": capture.written,
        "method": method.method,
        "settings": settings,
        "dataparser": parser,
        "teacher": None if teacher is None else teacher.key,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    label = f"teacher-{method.name}" if is_teacher else method.name
    return Job(
        key=f"{capture.name}/{label}-{digest}",
        capture=capture.name,
        data=str(capture.path),
        method=method.method,
        label=label,
        arguments=as_arguments({**QUIET, **settings}),
        dataparser=parser,
        teacher=None if teacher is None else str(spec.output / teacher.key),
        is_teacher=is_teacher,
        pool=str(spec.output / "pools") if spec.share_pool and teacher is not None else None,
        evaluate=spec.evaluate and not is_teacher,
        exports=[] if is_teacher else list(spec.exports),
        gpus=spec.gpus,
        commands={name: list(words) for name, words in spec.commands.items()},
    )


def with_gpus(plan: Plan, gpus: float) -> Plan:
    """The same runs on so many GPUs each, where the file did not say."""
    return replace(plan, jobs=tuple(job if job.gpus is not None else replace(job, gpus=gpus) for job in plan.jobs))
