"""Where splats that teach come from: a file, in one of three frames, or a splatfacto run where there is no CUDA."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from mobiler2l_ns.capture.background import Background
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.saved_run import SavedRun
from mobiler2l_ns.teacher.loaded import LoadedTeacher, adopted_dataparser, likeness, load_teacher
from mobiler2l_ns.teacher.splat_cloud import COLOUR_AT_ZERO, MOST_DEGREE, SH_DC, SplatCloud
from mobiler2l_ns.teacher.splat_file import read_splats
from mobiler2l_ns.teacher.splat_teacher import SplatTeacher, SplatTeacherConfig

SplatFrame = Literal["capture", "transforms", "world"]
"""What the coordinates of a file of splats are, see ``splat_frames``."""
CLEARLY_BETTER = 1.0
"""dB by which another frame must fit the photos better to be the one that was meant."""
HALF_TURN = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
"""Between axes with y down and z ahead, and those with y up and z back."""


# A file, and the frame it is in


def splat_frames(dataset: InputDataset, data: Path | None) -> dict[str, tuple[Tensor, float]]:
    """What brings splats from each frame they may be in to nerfstudio's: a transform, then a scale.

    Args:
        dataset: the capture as nerfstudio has it.
        data: its folder or its transforms.json.

    Returns:
        By name: capture, the coordinates of the photos' reconstruction (COLMAP's), before any of nerfstudio's tools
        turned them; transforms, those written in transforms.json, which are others where ``ns-process-data`` noted an
        ``applied_transform`` there (left out where there is no such file); world, nerfstudio's own.
    """
    outputs = dataset._dataparser_outputs
    whole = torch.eye(4, dtype=torch.float64)
    whole[:3] = outputs.dataparser_transform.to("cpu", torch.float64)[:3]
    scale = float(outputs.dataparser_scale)
    frames: dict[str, tuple[Tensor, float]] = {"capture": (whole, scale)}
    if (applied := _applied(data)) is not None:
        frames["transforms"] = (whole @ torch.linalg.inv(applied[0]), scale / applied[1])
    frames["world"] = (torch.eye(4, dtype=torch.float64), 1.0)
    return frames


def _applied(data: Path | None) -> tuple[Tensor, float] | None:
    """How transforms.json says that its coordinates were made of the reconstruction's: a transform and a scale."""
    if data is None:
        return None
    file = data if data.suffix == ".json" else data / "transforms.json"
    try:
        meta = json.loads(file.read_text(encoding="utf-8-sig"))
        rows = meta.get("applied_transform")
        if rows is None and (file.parent / "colmap/sparse/0").exists():
            # What nerfstudio takes an older ns-process-data to have applied.
            rows = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]
        applied = torch.eye(4, dtype=torch.float64)
        if rows is not None:
            applied[:3] = torch.tensor(rows, dtype=torch.float64)[:3]
        return applied, float(meta.get("applied_scale", 1.0))
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError):
        return None


def load_splats(
    path: Path,
    frame: SplatFrame,
    dataset: InputDataset,
    data: Path | None,
    device: torch.device | str,
    background: Background | None = None,
) -> LoadedTeacher:
    """A file of splats as the teacher of a capture.

    Args:
        path: a .ply or .spz, see ``read_splats``.
        frame: what its coordinates are, see ``splat_frames``.
        dataset, data: the capture, and its folder.
        device: where to put the splats.
        background: of transparent photos; if given, the splats must show the capture's photos.

    Raises:
        UserError: if the file cannot be read, the capture has no such frame, or they do not show its photos in it.
    """
    if frame not in get_args(SplatFrame):
        raise UserError(f"--pipeline.teacher-splats-frame {frame}: give one of {', '.join(get_args(SplatFrame))}")
    frames = splat_frames(dataset, data)
    if frame not in frames:
        raise UserError(f"--pipeline.teacher-splats-frame {frame}: this capture has no transforms.json")
    cloud = read_splats(path)
    outputs = dataset._dataparser_outputs

    def placed(transform: Tensor, scale: float) -> SplatTeacher:
        moved = cloud.moved(transform, scale)
        return SplatTeacher(moved, SplatTeacherConfig(), outputs.scene_box).to(device).eval().requires_grad_(False)

    teacher = placed(*frames[frame])
    if background is not None:
        if any(int(kind) != CameraType.PERSPECTIVE.value for kind in outputs.cameras.camera_type.flatten()):
            raise UserError(f"{path}: splats are seen through pinhole cameras, which this capture's are not")
        seen, grey = likeness(teacher, dataset, background)
        if advice := _another_frame(
            frame, frames, seen, grey, lambda *at: likeness(placed(*at), dataset, background)[0]
        ):
            raise UserError(
                f"The splats of {path} do not show this capture's photos in the frame '{frame}' ({seen:.1f} dB; the "
                f"photos' mean colour gives {grey:.1f} dB): {advice}"
            )
    return LoadedTeacher(teacher, outputs, recorded_frame=None)


def _another_frame(
    frame: str, frames: dict[str, tuple[Tensor, float]], seen: float, grey: float, measure: Callable[..., float]
) -> str:
    """What to do about a frame that does not fit, or not as well as another; empty if it fits.

    Args:
        frame: the one that was asked for, of ``frames``.
        seen, grey: ``likeness`` in it.
        measure: likeness of the splats moved by a transform and a scale.
    """
    turned = {name: (transform @ HALF_TURN, scale) for name, (transform, scale) in frames.items()}
    tried, fits = [frames[frame]], {}
    for turns, places in enumerate((frames, turned)):
        for name, at in places.items():
            if not any(_is_same(at, known) for known in tried):
                tried.append(at)
                fits[turns, name] = measure(*at)
    best = max(fits, key=lambda place: fits[place])
    if fits[best] > max(seen + CLEARLY_BETTER, grey):
        turns, name = best
        if not turns:
            return f"give --pipeline.teacher-splats-frame {name}, where they do ({fits[best]:.1f} dB)"
        return (
            f"with y and z turned round they would in the frame '{name}' ({fits[best]:.1f} dB): write the file with "
            "y down and z ahead, as 3DGS does"
        )
    if seen >= grey:
        return ""
    return "they do in no frame, give the splats that were trained on --data and are in its coordinates"


def _is_same(a: tuple[Tensor, float], b: tuple[Tensor, float]) -> bool:
    return torch.allclose(a[0], b[0], atol=1e-5) and abs(a[1] / b[1] - 1.0) < 1e-5


# splatfacto


def load_run(config_path: Path, data: Path | None, device: torch.device | str) -> LoadedTeacher:
    """The model of an existing run, as ``load_teacher`` has it; that of a splatfacto run also where there is no CUDA,
    on which nerfstudio's own model insists.

    Raises:
        UserError: if the run, its checkpoint or its capture cannot be loaded.
    """
    from nerfstudio.models.splatfacto import SplatfactoModelConfig

    run = SavedRun.open(config_path)
    if torch.device(device).type == "cuda" or type(run.config.pipeline.model) is not SplatfactoModelConfig:
        return load_teacher(config_path, data, device)
    settings = run.config.pipeline.model
    own = getattr(adopted_dataparser(run.config, None), "data", None)
    dataparser: Any = adopted_dataparser(run.config, None if own is not None and Path(own).exists() else data)
    if hasattr(dataparser, "load_3D_points"):
        dataparser.load_3D_points = False
    cloud = splats_of_run(config_path, run.state["pipeline"])
    try:
        outputs = dataparser.setup().get_dataparser_outputs(split="train")
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"The capture of the teacher's run {config_path} cannot be read: {reason}") from error
    transforms = config_path.parent / "dataparser_transforms.json"
    recorded = json.loads(transforms.read_text()) if transforms.exists() else None
    shown = SplatTeacherConfig(
        background_color=settings.background_color, antialiased=settings.rasterize_mode == "antialiased"
    )
    model: Any = SplatTeacher(cloud, shown, outputs.scene_box)
    adjusted = run.state["pipeline"].get("_model.camera_optimizer.pose_adjustment")
    if adjusted is not None:
        model.camera_optimizer = settings.camera_optimizer.setup(num_cameras=len(adjusted), device="cpu")
        model.camera_optimizer.load_state_dict({"pose_adjustment": adjusted})
    return LoadedTeacher(model.to(device).eval().requires_grad_(False), outputs, recorded)


def splats_of_run(config_path: Path, state: dict[str, Tensor]) -> SplatCloud:
    """The splats in a splatfacto run's checkpoint, in nerfstudio's frame.

    Args:
        config_path: names the run in errors.
        state: of its pipeline.

    Raises:
        UserError: if there are none, or their harmonics go further than can be rendered.
    """
    names = ("means", "quats", "scales", "opacities", "features_dc", "features_rest")
    values = {key.rpartition(".")[2]: value.float() for key, value in state.items() if key.startswith("_model.")}
    if any(name not in values for name in names):
        raise UserError(f"The checkpoint of {config_path} holds no splats")
    means, quaternions, scales, opacities, first, further = (values[name] for name in names)
    if further.shape[1] == 0:
        # Without harmonics splatfacto learns the logit of the colour.
        first = (first.sigmoid() - COLOUR_AT_ZERO) / SH_DC
    if further.shape[1] >= (MOST_DEGREE + 1) ** 2:
        raise UserError(f"{config_path} has spherical harmonics of degree 4: rendered without CUDA are those up to 3")
    return SplatCloud(
        means,
        torch.nn.functional.normalize(quaternions, dim=-1),
        scales.exp(),
        opacities.sigmoid().reshape(-1),
        torch.cat([first[:, None], further], dim=1),
    )
