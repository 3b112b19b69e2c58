"""The part of a report that lists exported packages: empty when the page is written, filled by every export."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from nerfstudio.utils.rich_utils import CONSOLE

from mobiler2l_ns.export.contract import MANIFEST
from mobiler2l_ns.export.manifest import PackageFile
from mobiler2l_ns.export.summary import COLUMNS, NUMBERS, cells, student_cells
from mobiler2l_ns.report import NAME

BEGIN, END = "<!-- packages -->", "<!-- end of packages -->"
_SECTION = re.compile(f"{re.escape(BEGIN)}(.*?){re.escape(END)}", re.DOTALL)
_FOLDERS = re.compile(r'<article data-folder="(.*?)">.*?</article>', re.DOTALL)
_STUDENT = re.compile(r'<main data-student="([0-9a-f]+)">')


def empty(command: str) -> str:
    """The section of a new page, which says how to fill it."""
    return f'{BEGIN}<p class="quiet">None yet. <code>{escape(command)}</code> writes one.</p>{END}'


def keep(page: str, previous: str) -> str:
    """A new page with the packages of the page it replaces, if they are of the same student."""
    old, same = _SECTION.search(previous), _student(previous) == _student(page)
    return _SECTION.sub(lambda _: old[0], page) if old and same and _FOLDERS.search(old[0]) else page


def _student(page: str) -> str:
    found = _STUDENT.search(page)
    return "" if found is None else found[1]


def table(columns: Sequence[str], numbers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in HTML.

    Args:
        columns: their names.
        numbers: those that hold numbers.
        rows: cells of each row, as text.
    """
    classes = [' class="number"' if column in numbers else "" for column in columns]
    head = "".join(f"<th{kind}>{escape(column)}</th>" for column, kind in zip(columns, classes, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, classes, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def add(report: Path, folder: Path, student_sha256: str, packages: str) -> str | None:
    """Put the packages of an export folder into a report, in place of what it says of that folder.

    Args:
        report: the page of the run; nothing happens if there is none.
        folder: where the packages are.
        student_sha256: whose packages they are.
        packages: a table in HTML.

    Returns:
        What to tell the user, if the page is left as it is; None otherwise.
    """
    if not report.is_file():
        return None
    page = report.read_text(encoding="utf8")
    section = _SECTION.search(page)
    if section is None:
        return f"{report} has no place for packages"
    if _student(page) != student_sha256:
        return f"{report} is of an earlier student: scripts/report.py --load-config writes it anew"
    here = escape(str(folder))
    others = [found[0] for found in _FOLDERS.finditer(section[1]) if found[1] != here]
    article = f'<article data-folder="{here}"><h3>{here}</h3>{packages}</article>'
    changed = page[: section.start()] + BEGIN + "".join([*others, article]) + END + page[section.end() :]
    partial = report.with_name(f"{report.name}.{os.getpid()}.part")
    partial.write_text(changed, encoding="utf8")
    partial.replace(report)
    return None


def add_export(config_path: Path, output_dir: Path) -> None:
    """Put all packages of an export folder into the report beside a run's config.yml, if there is one.

    The packages are in their place whatever comes of it: the console says why a page stays as it is.

    Args:
        config_path: of the run.
        output_dir: of the packages and their manifest.
    """
    report = config_path.parent / NAME
    described = json.loads((output_dir / MANIFEST).read_text(encoding="utf8"))
    rows = [cells(PackageFile(**entry)) for entry in described["files"]]
    if described["psnr_photos"] is not None:
        rows.insert(0, student_cells(described["psnr_photos"]))
    try:
        problem = add(report, output_dir, described["student_sha256"], table(COLUMNS, NUMBERS, rows))
    except OSError as error:
        problem = f"{report} cannot be written: {error}"
    if problem is not None:
        CONSOLE.print(problem, style="yellow", soft_wrap=True, highlight=False, markup=False)
    elif report.is_file():
        CONSOLE.print(f"These packages are listed in {report}", soft_wrap=True, highlight=False, markup=False)
