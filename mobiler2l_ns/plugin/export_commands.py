"""The export commands: subcommands of ns-export, and the console script mobiler2l-export."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from nerfstudio.utils.rich_utils import CONSOLE

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.contract import MANIFEST, Contract
from mobiler2l_ns.export.format import Format
from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.formats.web.serve import show
from mobiler2l_ns.export.lint import advice, lint, print_lint
from mobiler2l_ns.export.manifest import PackageFile
from mobiler2l_ns.export.package import Request, export_packages
from mobiler2l_ns.export.poses import read_poses
from mobiler2l_ns.export.proof import Reference
from mobiler2l_ns.export.proof_photos import load_proof_photos
from mobiler2l_ns.report.packages import add_export
from mobiler2l_ns.run.opening import open_distilled, student_of
from mobiler2l_ns.student.renderer import Student


@dataclass
class _Export:
    load_config: Path
    """config.yml of a mobiler2l run."""
    output_dir: Path
    """Folder for the packages and their manifest.json."""
    sizes: tuple[str, ...] = ()
    """WIDTHxHEIGHT of the pictures, such as 800x800 400x400; none: the student's own. A student that has learned
    several pitches shows all of its picture at their sizes; any other size is another field of view."""
    poses: str = "auto"
    """Named views and a turntable that packages bring along: auto (where the capture is good), none, or the .json of a
    camera path from nerfstudio's viewer, whose keyframes become the views."""

    def export(self, requests: Callable[[Student], list[Request]]) -> list[PackageFile]:
        """Convert, prove, move in what is asked for of the run's student."""
        poses = read_poses(self.poses)
        run = open_distilled(self.load_config)
        student = student_of(run)
        photos = load_proof_photos(run.config, student, self.load_config.parent)
        files = export_packages(student, requests(student), self.output_dir, Reference(student, photos), poses)
        add_export(self.load_config, self.output_dir)
        return files

    def parsed_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each of ``sizes``."""
        matches = [(size, re.fullmatch(r"(\d+)x(\d+)", size)) for size in self.sizes]
        wrong = [size for size, match in matches if match is None]
        if wrong:
            raise UserError(f"--sizes {' '.join(wrong)}: give WIDTHxHEIGHT, such as 800x600")
        return tuple((int(match[2]), int(match[1])) for _, match in matches if match is not None)


def _command(form: Format) -> type:
    """The command of one format: what it can hold is what can be asked for."""
    contracts = Literal[form.contracts]  # type: ignore[valid-type]
    precisions = Literal[tuple(form.thresholds)]  # type: ignore[valid-type]
    asked = (
        "pose: a camera's pose and intrinsics go in; encoding: its encoded low-resolution rays do (features: and what "
    )
    asked += "the student's volume shows of them), which leaves the network alone to the device. Give both for two "
    asked += "packages; none: the pose, where the format can look up the student's volume."

    def main(self: Any) -> None:
        """Convert, prove, move in."""
        sizes = self.parsed_sizes()
        depth = form.holds_depth and self.depth
        contracts = self.contracts or (None,)
        requests = [Request(form.name, contract, self.precision, sizes, depth) for contract in contracts]
        files = self.export(lambda student: requests)
        if form.stands_alone and self.serve:
            show(self.output_dir / files[0].path, self.port)

    fields: list[tuple[str, Any, Any]] = [
        ("contracts", Annotated[tuple[contracts, ...], tyro.conf.arg(help=asked)], ()),
        ("precision", Annotated[precisions, tyro.conf.arg(help="Of the network's weights.")], form.precision),
    ]
    if form.holds_depth:
        told = "Give depth along the optical axis as well, as a second output, of a student with a volume."
        fields += [("depth", Annotated[bool, tyro.conf.arg(help=told)], False)]
    if form.stands_alone:
        fields += [("serve", Annotated[bool, tyro.conf.arg(help="Serve the page on this machine afterwards.")], False)]
        fields += [("port", Annotated[int, tyro.conf.arg(help="Of that server.")], 8080)]
    made = make_dataclass(f"Export_{form.name}", fields, bases=(_Export,), namespace={"main": main})
    made.__doc__ = f"Write a mobiler2l student for {form.title}."
    return made


@dataclass
class ExportAll(_Export):
    """Write a mobiler2l student in every format that is installed here, with every contract it holds."""

    contracts: tuple[Contract, ...] = ("pose", "encoding")
    """Which of the contracts, where a format holds them; for a student with a volume, encoding means features."""

    def main(self) -> None:
        """Convert, prove, move in."""
        forms, sizes = [], self.parsed_sizes()
        for form in all_formats().values():
            if missing := form.missing():
                CONSOLE.print(f"{form.name} is left out: {missing}", style="yellow", markup=False, soft_wrap=True)
            else:
                forms.append(form)

        def requests(student: Student) -> list[Request]:
            wanted = set(self.contracts) | ({"features"} if "encoding" in self.contracts else set())
            offered = [(form.name, contract) for form in forms for contract in form.contracts_of(student)]
            return [Request(name, contract, sizes=sizes) for name, contract in offered if contract in wanted]

        self.export(requests)


@dataclass
class Lint:
    """List the operations of a package with their cost, and those that would leave the phone's fast processors."""

    package: Path
    """A file or folder that was exported, beside its manifest.json."""

    def main(self) -> None:
        """Print every size of the package."""
        try:
            described = json.loads((self.package.parent / MANIFEST).read_text(encoding="utf8"))
        except OSError:
            raise UserError(f"There is no {MANIFEST} beside {self.package}: give an exported package") from None
        entry = next((entry for entry in described["files"] if entry["path"] == self.package.name), None)
        if entry is None or not self.package.exists():
            known = ", ".join(entry["path"] for entry in described["files"])
            raise UserError(f"{self.package} is not one of the packages there: {known}")
        form = all_formats()[entry["format"]]
        for view in entry["views"]:
            layers = form.layers(self.package, view["function"])
            if not layers:
                raise UserError(f"{self.package} is not read operation by operation: lint knows nothing of it")
            findings, advised = lint(layers, form.processors), advice(layers, form.processors)
            print_lint(self.package, layers, findings, advised)


EXPORT_COMMANDS: dict[str, type] = {**{name: _command(form) for name, form in all_formats().items()}, "all": ExportAll}
"""Format -> command, and all of them."""

NS_EXPORT_COMMANDS: dict[str, tuple[type, str]] = {
    f"mobiler2l-{name}": (command, command.__doc__ or "") for name, command in EXPORT_COMMANDS.items()
}
"""Subcommand of ns-export: (dataclass with ``main``, description)."""


def entrypoint() -> None:
    """``mobiler2l-export FORMAT|all|lint``: the same commands without ns-export's mesh libraries."""
    commands = {**EXPORT_COMMANDS, "lint": Lint}
    tyro.extras.subcommand_cli_from_dict(commands, description="Write packages of a mobiler2l student.").main()
