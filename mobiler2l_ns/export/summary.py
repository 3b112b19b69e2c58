"""What an export ends with: one table of all it wrote."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from nerfstudio.utils.rich_utils import CONSOLE
from rich.table import Table
from rich.text import Text

from mobiler2l_ns.export.manifest import PackageFile

COLUMNS = ("format", "file", "contract", "precision", "MB", "dB to student", "dB to photos", "ms here", "run by")
NUMBERS = COLUMNS[4:8]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def cells(file: PackageFile) -> tuple[str, ...]:
    """What the table says of a package, one for each of ``COLUMNS``."""
    return (
        file.format,
        file.path,
        file.contract,
        file.precision,
        f"{file.bytes / 1e6:.2f}",
        _number(file.psnr_student, 1),
        _number(file.psnr_photos, 2),
        _number(file.ms, 0),
        file.run_by,
    )


def student_cells(psnr_photos: float) -> tuple[str, ...]:
    """What the table says of the student itself."""
    return ("pytorch", "the student", "", "fp32", "", "", _number(psnr_photos, 2), "", "torch")


def print_table(folder: Path, files: Sequence[PackageFile], student_photos: float | None) -> None:
    """Print a line for each package.

    Args:
        folder: where they are.
        files: the packages.
        student_photos: the student's own PSNR in dB to the proof photos, if known.
    """
    table = Table(title=Text(str(folder), "bold green"))
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in NUMBERS else "left", overflow="fold")
    if student_photos is not None:
        table.add_row(*student_cells(student_photos))
    for file in files:
        table.add_row(*map(Text, cells(file)))
    CONSOLE.print(table)
    warned = [file for file in files if file.warnings]
    if warned:
        CONSOLE.print("[yellow]Some operations may leave the processor they are meant for. These commands list them:")
    for file in warned:
        package = shlex.quote(str(folder / file.path))
        command = f"mobiler2l-export lint --package {package}  # kinds: {len(file.warnings)}"
        CONSOLE.print(command, soft_wrap=True, highlight=False, markup=False)
