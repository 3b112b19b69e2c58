"""The console script mobiler2l-check: one look at a capture, as training takes it before its first step."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.utils.rich_utils import CONSOLE
from rich.table import Table
from rich.text import Text

from mobiler2l_ns.capture.checks import Findings, look_at
from mobiler2l_ns.capture.formats import colmap_place, format_of
from mobiler2l_ns.capture.parsing import capture_file, evaluation_splits, reading
from mobiler2l_ns.capture.photos import sized_dataset
from mobiler2l_ns.errors import UserError

Format = Literal["auto", "nerfstudio", "blender", "colmap"]


def dataparser_of(capture: Path, form: Format = "auto", downscale_factor: int | None = None) -> DataParserConfig:
    """The dataparser that reads a capture.

    Args:
        capture: a folder, or its transforms.json.
        form: of the capture; auto: as its files tell.
        downscale_factor: of the folder images_N to read from; none: nerfstudio's choice.

    Raises:
        UserError: if no file tells what the capture is.
    """
    if form == "auto":
        form = format_of(capture)
    if form == "blender":
        return BlenderDataParserConfig(data=capture)
    if form == "nerfstudio":
        return NerfstudioDataParserConfig(data=capture, downscale_factor=downscale_factor)
    place = Path(colmap_place(capture) or "sparse/0")
    return ColmapDataParserConfig(data=capture, colmap_path=place, downscale_factor=downscale_factor or 1)


def check(config: DataParserConfig) -> Findings:
    """Look at a capture.

    Raises:
        UserError: if its file does not say what its photos are.
    """
    with reading(config) as notes:
        parser = config.setup()
        train = parser.get_dataparser_outputs(split="train")
    if len(train.image_filenames) == 0:
        raise UserError(f"{capture_file(config)}: no photo is left to train on: list some, or hold fewer out")
    splits = {"train": train, **evaluation_splits(parser)}
    found = look_at({name: sized_dataset(outputs, None) for name, outputs in splits.items()})
    found.notes[:0] = notes
    if len(splits) == 1:
        found.notes.append("No photo is held out: what is measured on such photos is left out")
    return found


@dataclass
class Check:
    """See that a capture can be trained on: every photo and mask is read to its end."""

    capture: Annotated[Path, tyro.conf.Positional]
    """A folder, or its transforms.json."""
    dataparser: Format = "auto"
    """Format of the capture; auto: as its files tell."""
    downscale_factor: int | None = None
    """Read the photos of the folder images_N that is this much smaller; None: as nerfstudio chooses."""

    def main(self) -> None:
        """Print what was found; exit status 1 if it cannot be trained on."""
        found = check(dataparser_of(self.capture, self.dataparser, self.downscale_factor))
        CONSOLE.print(str(self.capture), markup=False, highlight=False, soft_wrap=True)
        table = Table(show_header=False)
        for name, value in found.facts.items():
            table.add_row(name, Text(value))
        CONSOLE.print(table)
        for line in found.notes:
            CONSOLE.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
        for line in found.problems:
            CONSOLE.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
        if found.problems:
            sys.exit(1)
        CONSOLE.print("This capture can be trained on", style="green")


def entrypoint() -> None:
    """``mobiler2l-check CAPTURE``."""
    tyro.cli(Check).main()
