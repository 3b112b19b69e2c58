"""nerfstudio's dataparsers, met in one place: what they read is put right first, what they raise is one line.

For nerfstudio 1.1.5, whose parsers open transforms.json themselves, scale by the extent of the cameras even if that is
zero, and tell what is missing by a KeyError or an assertion.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from nerfstudio.data.dataparsers import blender_dataparser, colmap_dataparser, nerfstudio_dataparser
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser, ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from mobiler2l_ns.capture.poses import stand_at_one_place
from mobiler2l_ns.capture.transforms import (
    blender_meta,
    blender_photo,
    lists_no_photos,
    nerfstudio_meta,
    read_json,
    settle_places,
)
from mobiler2l_ns.errors import UserError

Split = Literal["train", "val", "test"]


def capture_file(config: DataParserConfig) -> Path:
    """The file, or where that is not known the folder, that a dataparser reads its cameras from."""
    data = Path(getattr(config, "data", "."))
    if isinstance(config, NerfstudioDataParserConfig) and data.suffix != ".json":
        return data / "transforms.json"
    if isinstance(config, BlenderDataParserConfig):
        return data / "transforms_train.json"
    if isinstance(config, ColmapDataParserConfig):
        return data / config.colmap_path
    return data


def has_cameras_only(config: DataParserConfig, data: Path | None) -> bool:
    """Whether none of a capture's photos is there; only those in nerfstudio's format may be without.

    Args:
        data: in place of the config's own, if given.
    """
    if not isinstance(config, NerfstudioDataParserConfig):
        return False
    file = capture_file(replace(config, data=data or config.data))
    return file.is_file() and lists_no_photos(file)


@contextmanager
def reading(config: DataParserConfig) -> Iterator[list[str]]:
    """Within it a dataparser of this config reads what ``transforms`` makes of the capture's file.

    Yields:
        What was changed for that, in lines for people; filled while the dataparser works.

    Raises:
        UserError: in place of what a dataparser raises.
    """
    notes: list[str] = []
    centred = getattr(config, "center_method", "none") != "none"
    scaled = getattr(config, "auto_scale_poses", None)

    def note(lines: list[str]) -> None:
        notes.extend(line for line in lines if line not in notes)

    def settle(together: bool) -> None:
        if together and scaled is not None:
            config.auto_scale_poses = False  # type: ignore[attr-defined]

    def load_nerfstudio(file: Path) -> dict[str, Any]:
        meta, lines, together = nerfstudio_meta(file, centred)
        note(lines)
        settle(together)
        return meta

    def load_blender(file: Path) -> dict[str, Any]:
        meta, lines = blender_meta(file)
        note(lines)
        return meta

    read_colmap = ColmapDataParser._get_all_images_and_cameras

    def load_colmap(parser: ColmapDataParser, folder: Path) -> dict[str, Any]:
        meta = read_colmap(parser, folder)
        note(settle_places(meta, folder, centred))
        settle(stand_at_one_place(meta["frames"]))
        return meta

    try:
        with (
            mock.patch.object(nerfstudio_dataparser, "load_from_json", load_nerfstudio),
            mock.patch.object(blender_dataparser, "load_from_json", load_blender),
            mock.patch.object(colmap_dataparser.ColmapDataParser, "_get_all_images_and_cameras", load_colmap),
        ):
            yield notes
    except Exception as error:
        if not _by_a_dataparser(error):
            raise
        raise UserError(f"{capture_file(config)} cannot be used: {_reason(error)}") from error
    finally:
        if scaled is not None:
            config.auto_scale_poses = scaled  # type: ignore[attr-defined]


def _by_a_dataparser(error: Exception) -> bool:
    return any(
        frame.f_globals.get("__name__", "").startswith("nerfstudio.data.dataparsers.")
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} is not there. Put it back, or process the capture again"
    if isinstance(error, KeyError):
        return f"it has no {said}. Write it there, or process the capture again"
    return f"{said or type(error).__name__} ({type(error).__name__}). Process the capture again"


def parse(parser: DataParser, split: Split) -> DataparserOutputs:
    """A split of the capture.

    Raises:
        UserError: if the dataparser cannot read it.
    """
    with reading(parser.config):
        return parser.get_dataparser_outputs(split=split)


def _is_there(parser: DataParser, split: Split) -> bool:
    """Whether a split has a file and any of the photos that it lists; a parser that has no files by split has it."""
    if not isinstance(parser.config, BlenderDataParserConfig):
        return True
    file = parser.config.data / f"transforms_{split}.json"
    if not file.exists():
        return False
    folder = file.parent
    return any((folder / blender_photo(folder, frame["file_path"])).exists() for frame in read_json(file)["frames"])


def of_split(parser: DataParser, split: Split) -> DataparserOutputs | None:
    """The photos of a split; None if the capture has none.

    Raises:
        UserError: if the dataparser cannot read them.
    """
    if not _is_there(parser, split):
        return None
    try:
        outputs = parse(parser, split)
    except UserError as error:
        # COLMAP captures may list the photos of some splits only.
        if "list of filenames" in str(error):
            return None
        raise
    return outputs if len(outputs.image_filenames) > 0 else None


def held_out(parser: DataParser, split: Split) -> DataparserOutputs | None:
    """The photos that nothing learns from: of a split for evaluation, or of the other one where that holds none; None
    if the capture holds no photo out.

    Raises:
        UserError: if the dataparser cannot read them.
    """
    return of_split(parser, split) or of_split(parser, "test" if split == "val" else "val")


def evaluation_splits(parser: DataParser) -> dict[str, DataparserOutputs]:
    """The photos of val and test that the capture has, each photo once.

    Raises:
        UserError: if the dataparser cannot read them.
    """
    splits: dict[str, DataparserOutputs] = {}
    names: list[Split] = ["val", "test"]
    for name in names:
        outputs = of_split(parser, name)
        if outputs is not None and all(outputs.image_filenames != other.image_filenames for other in splits.values()):
            splits[name] = outputs
    return splits
