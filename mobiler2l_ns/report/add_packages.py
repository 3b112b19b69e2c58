"""An export's table of packages goes into the report of the run as well."""

from __future__ import annotations

import json
from pathlib import Path

from nerfstudio.utils.rich_utils import CONSOLE

from mobiler2l_ns.export import manifest
from mobiler2l_ns.export.summary import COLUMNS, NUMBERS, cells, student_cells
from mobiler2l_ns.report import packages


def add_to_report(config_path: Path, output_dir: Path) -> None:
    """Put all packages of an export folder into the report beside a run's config.yml, if there is one.

    The packages are in their place whatever comes of it: the console says why a page stays as it is.
    """
    report = config_path.parent / packages.NAME
    described = json.loads((output_dir / manifest.NAME).read_text(encoding="utf8"))
    rows = [cells(manifest.PackageFile(**entry)) for entry in described["files"]]
    if described["psnr_photos"] is not None:
        rows.insert(0, student_cells(described["psnr_photos"]))
    try:
        problem = packages.add(report, output_dir, described["student_sha256"], packages.table(COLUMNS, NUMBERS, rows))
    except OSError as error:
        problem = f"{report} cannot be written: {error}"
    if problem is not None:
        CONSOLE.print(f"[yellow]{problem}")
    elif report.is_file():
        CONSOLE.print(f"These packages are listed in {report}", soft_wrap=True, highlight=False)
