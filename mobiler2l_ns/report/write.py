"""Collect the facts of a run and write its report.html."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mobiler2l_ns.report import NAME, packages
from mobiler2l_ns.report.facts import Facts, collect
from mobiler2l_ns.report.page import write_page
from mobiler2l_ns.report.run import ReportedRun


@dataclass
class Written:
    """A report on disk."""

    path: Path
    facts: Facts

    def results(self) -> dict[str, dict[str, float]]:
        """Who against whom -> metric -> mean over the test views."""
        means = self.facts.measured.means()
        results = {"student to photos": {"PSNR": means["psnr"], "SSIM": means["ssim"]}}
        if "teacher_psnr" in means:
            results["student to teacher"] = {"PSNR": means["psnr_to_teacher"]}
            results["teacher to photos"] = {"PSNR": means["teacher_psnr"], "SSIM": means["teacher_ssim"]}
        return results


def write_report(run: ReportedRun, config_path: Path, step: int, most_views: int) -> Written:
    """Measure a run and write the page beside its config.yml; one that is there is replaced, but keeps its packages.

    Args:
        run: trained or opened again; it stays in evaluation mode.
        config_path: of the run.
        step: last step that was trained.
        most_views: test views to measure.

    Raises:
        UserError: if the capture holds out no views.
    """
    facts = collect(run, config_path, step, most_views)
    page, path = write_page(facts), config_path.parent / NAME
    if path.is_file():
        page = packages.keep(page, path.read_text(encoding="utf8"))
    partial = path.with_name(f"{NAME}.{os.getpid()}.part")
    partial.write_text(page, encoding="utf8")
    partial.replace(path)
    return Written(path, facts)
