"""How far the run is, in words and as a share of the whole."""

from __future__ import annotations

from pathlib import Path

from mobiler2l_ns.pool.pseudo_views import PseudoViewPool
from mobiler2l_ns.progress.log import CURVES, Progress
from mobiler2l_ns.progress.phases import PhasePlan
from mobiler2l_ns.progress.records import duration, read_log


def progress_of_checkpoint(plan: PhasePlan, step: int, log: Path) -> Progress:
    """The state of a run that is only looked at.

    Args:
        plan: its phases.
        step: of its checkpoint.
        log: its progress.jsonl, which older runs lack.
    """
    phase = plan.at(step)
    records = [record for record in read_log(log) if record["step"] <= step]
    psnr = {
        record.get("curve", record["phase"]): record["psnr"] for record in records if record.get("psnr") is not None
    }
    return Progress(
        phase,
        plan.length(phase),
        step + 1 - plan.start(phase),
        "finished" if step + 1 >= plan.total else "stopped",
        seconds=records[-1]["seconds"] if records else 0.0,
        psnr=psnr,
    )


def share_done(plan: PhasePlan, progress: Progress) -> float:
    """Of all steps of the run, 0..1."""
    return min(1.0, (plan.start(progress.phase) + progress.step) / max(1, plan.total))


def describe(progress: Progress, pool: PseudoViewPool | None) -> str:
    """A few lines of Markdown: phase, step, speed, dB."""
    words = [f"**{progress.phase.value}**"]
    if progress.activity == "finished":
        words = ["**finished**"]
    elif progress.activity == "preparing" and pool is not None and len(pool) < pool.capacity:
        words.append(f"rendering pseudo views: {len(pool)} of {pool.capacity}")
    else:
        words += [progress.activity] if progress.activity != "training" else []
        words.append(f"step {progress.step} of {progress.steps}")
    if progress.activity == "training":
        if progress.images_per_second is not None:
            words.append(f"{progress.images_per_second:.1f} images/s")
        elif progress.steps_per_second is not None:
            words.append(f"{progress.steps_per_second:.1f} steps/s")
        if progress.seconds_left is not None:
            words.append(f"{duration(progress.seconds_left)} left")
    if progress.activity in ("finished", "stopped") and progress.seconds:
        words.append(f"trained for {duration(progress.seconds)}")
    lines = [" · ".join(words)]
    lines += [f"{CURVES[curve]}: {psnr:.2f} dB" for curve, psnr in progress.psnr.items() if curve in CURVES]
    return "  \n".join(lines)
