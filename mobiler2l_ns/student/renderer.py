"""The student as a renderer: any perspective camera in, picture out."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor, nn
from torch.nn import functional

from mobiler2l_ns.devices import compiles, multiplies_bfloat16
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.geometry.chords import Chords, finer_directions
from mobiler2l_ns.geometry.encoding import (
    chords_in_sphere,
    encode,
    jitter_depths,
    sample_depths,
)
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.geometry.rays import LowResRays, camera_rays
from mobiler2l_ns.student.capture_record import CaptureRecord
from mobiler2l_ns.student.config import Execution, StudentConfig
from mobiler2l_ns.student.network import StudentNetwork
from mobiler2l_ns.student.volume import Composited, Volume

Finer = Callable[[int], Float[Tensor, "n mh mw 3"]]
"""Directions through the parts of each low-resolution ray's cell, so many each way."""
FOCAL_TOLERANCE = 0.01
"""A camera whose focal length is this close to a coarser pitch's gets that pitch."""
NO_DEPTH = 1000.0
"""Depth where nothing is, nerfstudio's far plane, and of all of a light field's pictures: the viewer draws its cameras
over them."""
SOLID = 0.5
"""Accumulation from which on something is seen."""
MAX_PIXELS = 1 << 22
"""Most pixels of one forward pass; cameras that would need more (very wide views) are rendered coarser."""


class Rendered(NamedTuple):
    """What a camera sees."""

    picture: Float[Tensor, "h w colours"]
    """RGB or premultiplied RGBA in 0..1."""
    depth: Float[Tensor, "h w 1"] | None = None
    """Distance from the camera to what is seen, in scene units; None without a volume."""
    accumulation: Float[Tensor, "h w 1"] | None = None
    """How much of the light the volume stops, 0..1; None without one."""


class Student(nn.Module):
    """The network with the geometry of its capture.

    A student knows cells of the angular sizes it was trained on: the S x S block of its training cameras, and with
    several pitches its multiples. Any other focal length is rendered at one of those and resized (see ``render``).
    """

    def __init__(self, config: StudentConfig, execution: Execution | None = None) -> None:
        """Raises: UserError if the pitches do not begin with 1 and increase, or the settings make no network."""
        super().__init__()
        pitches = list(config.pitches)
        if pitches[:1] != [1.0] or pitches != sorted(set(pitches)):
            raise UserError(f"--pipeline.model.pitches {config.pitches}: they must begin with 1 and increase")
        config.check()
        self.config = config
        self.execution = execution or Execution()
        self.capture = CaptureRecord()
        self.volume = Volume(config, config.output_channels) if config.volume_rays else None
        self.network = StudentNetwork(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups: the network's, and one of the volume."""
        groups = self.network.parameter_groups()
        if self.volume is not None:
            maps = [*self.volume.hidden.parameters(), *self.volume.values.parameters(), self.volume.background]
            groups.append({"params": list(self.volume.planes), "volume": "planes"})
            groups.append({"params": maps, "volume": "map"})
        return groups

    def is_contracted(self) -> bool:
        """Whether sampled points go through the scene contraction."""
        return self.config.contraction == "on" or (self.config.contraction == "auto" and self.capture.is_unbounded)

    def in_sphere(self) -> bool:
        """Whether points are sampled inside the scene's sphere, in place of between near and far."""
        return self.config.ray_bounds == "auto" and self.capture.has_sphere and not self.is_contracted()

    def t_values(self) -> Float[Tensor, "k"]:
        """Where the K points lie: z-depths, or inside the scene's sphere from -1 (entry) to 1 (exit)."""
        if self.in_sphere():
            return torch.linspace(-1.0, 1.0, self.config.num_points, device=self.capture.scene_radius.device)
        return self._depths(self.config.num_points)

    def _depths(self, count: int) -> Float[Tensor, "k"]:
        near, far = self.capture.depth_range
        spacing = self.config.depth_spacing
        if spacing == "auto":
            spacing = "disparity" if self.is_contracted() else "linear"
        return sample_depths(near, far, count, spacing)

    def bin_edges(self) -> Float[Tensor, "bins1"]:
        """Edges of the pieces of a ray in which the volume's coarse density is looked up, as ``t_values``."""
        bins = self.config.density_bins
        if self.in_sphere():
            return torch.linspace(-1.0, 1.0, bins + 1, device=self.capture.scene_radius.device)
        return self._depths(bins + 1)

    def chords(self, origins: Float[Tensor, "*#rays 3"], directions: Float[Tensor, "*rays 3"]) -> Chords:
        """Where points of rays lie: ``start + t * along``, before they are contracted."""
        if self.in_sphere():
            capture = self.capture
            return Chords(*chords_in_sphere(origins, directions, capture.scene_centre, capture.scene_radius))
        return Chords(origins, directions)

    def density_rays(self, pitch: float = 1.0) -> int:
        """Rays that the volume's points are placed for in the cell of a low-resolution ray, each way."""
        return self.config.placing_rays(max(self.capture.size()) / (self.config.stride * pitch))

    def composite(
        self,
        origins: Float[Tensor, "n #h #w 3"],
        directions: Float[Tensor, "n h w 3"],
        pitch: float = 1.0,
        finer: Finer | None = None,
    ) -> Composited | None:
        """What the volume shows of low-resolution rays; None without one.

        Args:
            origins, directions, pitch: as for ``encode_rays``.
            finer: directions of finer rays, where the camera is known; None: those between the low-resolution ones.
        """
        if self.volume is None:
            return None
        finer = finer or partial(finer_directions, directions)
        fine = self.chords(origins, finer(self.config.volume_rays))
        coarse = self.chords(origins, finer(self.density_rays(pitch)))
        return self.volume(fine, coarse, self.bin_edges(), self.is_contracted())

    def count_density(
        self,
        origins: Float[Tensor, "r 3"],
        directions: Float[Tensor, "r 3"],
        depths: Float[Tensor, "r"],
        accumulations: Float[Tensor, "r"],
        keep_box: bool = False,
    ) -> None:
        """Let the volume's coarse density be that of rays whose ends are known.

        Args:
            origins, directions: rays, directions of length 1 along the optical axis.
            depths: z-depths of their ends.
            accumulations: 0..1.
            keep_box: whether the box, which the planes lie in, stays what it is.
        """
        assert self.volume is not None
        chords = self.chords(origins, directions)
        t = depths
        if self.in_sphere():
            capture = self.capture
            squared = directions.square().sum(-1)
            start = ((chords.start * capture.scene_radius + capture.scene_centre - origins) * directions).sum(-1)
            along = (chords.along * capture.scene_radius * directions).sum(-1)
            t = (depths * squared - start) / along
        self.volume.proposals.count(chords, t, accumulations, self.bin_edges(), self.is_contracted(), keep_box)

    def encode_rays(
        self,
        origins: Float[Tensor, "n #h #w 3"],
        directions: Float[Tensor, "n h w 3"],
        pitch: float = 1.0,
    ) -> Float[Tensor, "n channels h w"]:
        """The network's input for low-resolution rays, channels_last in memory; points are jittered in training.

        Args:
            origins, directions: rays in the world frame, directions of length 1 along the optical axis.
            pitch: size of the rays' cells in units of the full picture's, for students that learned several.
        """
        t_values = self.t_values()
        views, height, width, _ = directions.shape
        if self.training:
            t_values = jitter_depths(t_values, views, height, width, self.config.jitter)
        points = self.chords(origins, directions).at(t_values, self.is_contracted())
        encoded = encode(points.flatten(-2), self.config.num_frequencies)
        if len(self.config.pitches) > 1:
            encoded = torch.cat([encoded, torch.full_like(encoded[..., :1], math.log2(pitch))], dim=-1)
        return encoded.permute(0, 3, 1, 2)

    def forward(
        self,
        origins: Float[Tensor, "n #h #w 3"],
        directions: Float[Tensor, "n h w 3"],
        pitch: float = 1.0,
    ) -> Float[Tensor, "n colours sh sw"]:
        """Pictures in 0..1, RGB or premultiplied RGBA, of rays as ``encode_rays`` takes them."""
        return self.look(origins, directions, pitch)[0]

    def look(
        self,
        origins: Float[Tensor, "n #h #w 3"],
        directions: Float[Tensor, "n h w 3"],
        pitch: float = 1.0,
        finer: Finer | None = None,
    ) -> tuple[Float[Tensor, "n colours sh sw"], Composited | None]:
        """Pictures as ``forward`` gives them, and what the volume alone shows; ``finer`` as for ``composite``."""
        inputs, composited = self.network_inputs(origins, directions, pitch, finer)
        device = directions.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self._in_half(device)):
            # Pictures to look at come in all sizes, each of which would be compiled anew.
            network = self.network if self.training else self.network.forward
            return network(*inputs).float(), composited

    def network_inputs(
        self,
        origins: Float[Tensor, "n #h #w 3"],
        directions: Float[Tensor, "n h w 3"],
        pitch: float = 1.0,
        finer: Finer | None = None,
    ) -> tuple[tuple[Tensor, ...], Composited | None]:
        """What the network is given, encoded rays and with a volume its features, and what the volume shows; ``finer``
        as for ``composite``."""
        # The encoding's sines and the volume's places need all of float32; only the network may run in half precision.
        with torch.autocast(directions.device.type, enabled=False):
            encoded = self.encode_rays(origins.float(), directions.float(), pitch)
            composited = self.composite(origins.float(), directions.float(), pitch, finer)
        return ((encoded,) if composited is None else (encoded, composited.features)), composited

    def _in_half(self, device: str) -> bool:
        # On a CPU, pictures are what packages are compared with: their last digits count, and not their time.
        wanted = {"auto": device == "cuda" or self.training, "gpu": device == "cuda", "float32": False}
        return wanted[self.execution.precision] and multiplies_bfloat16(device)

    def compile_for(self, device: torch.device) -> None:
        """Compile the network's training pass with torch.compile, where that is configured; again when pruning has
        changed its shape."""
        wanted = self.execution.compile
        if wanted == "auto" and device.type == "cuda" and find_spec("triton") is not None and compiles("cuda"):
            wanted = "on"
        if wanted == "on":
            # Earlier shapes count towards the limit after which torch compiles no more.
            torch.compiler.reset()
            self.network.compile()

    def render(self, camera: Cameras) -> Float[Tensor, "h w colours"]:
        """Picture of one camera, see ``render_geometry``."""
        return self.render_geometry(camera).picture

    def render_geometry(self, camera: Cameras) -> Rendered:
        """Picture, and with a volume depth, of one camera of any size, focal length, principal point and distortion.

        The camera is brought to the training focal length, or the coarsest trained one that is fine enough (rounded so
        that its pixels are whole), rendered with one block of margin on each side, cropped and resized with
        antialiasing. A camera at a trained focal is only cropped, which is also what an exported package computes.

        Args:
            camera: one camera, shape (1,); it is not changed.

        Raises:
            ValueError: if the camera is not a perspective camera.
        """
        device = self.capture.intrinsics.device
        camera = camera.to("cpu")  # its numbers are asked for one by one, and each answer would stall a GPU
        height, width = int(camera.height.flatten()[0]), int(camera.width.flatten()[0])
        fx, fy = float(camera.fx.flatten()[0]), float(camera.fy.flatten()[0])
        train_fx, train_fy, _, _ = self.capture.focals_and_centre()
        pitch = self.pitch_for(train_fx / fx)
        train_fx, train_fy = train_fx / pitch, train_fy / pitch
        columns, rows = width * train_fx / fx, height * train_fy / fy
        shrink = min(1.0, (MAX_PIXELS / (columns * rows)) ** 0.5)
        columns, rows = _whole(columns * shrink, width), _whole(rows * shrink, height)
        resized = (rows, columns) != (height, width)
        margin = self.config.stride if resized else 0
        view = Cameras(
            camera_to_worlds=camera.camera_to_worlds.reshape(1, 3, 4),
            fx=camera.fx.reshape(1, 1) * (columns / width),
            fy=camera.fy.reshape(1, 1) * (rows / height),
            cx=camera.cx.reshape(1, 1) * (columns / width) + margin,
            cy=camera.cy.reshape(1, 1) * (rows / height) + margin,
            width=columns + 2 * margin,
            height=rows + 2 * margin,
            distortion_params=None if camera.distortion_params is None else camera.distortion_params.reshape(1, -1),
            camera_type=camera.camera_type.reshape(1, 1),
        )
        rays = LowResRays(*(each.to(device) for each in camera_rays(view, self.config.stride)))
        finer = self._finer_of(view) if 1 in rays.directions.shape[1:3] else None  # whose neighbours tell nothing
        picture, composited = self.look(*rays, pitch, finer)

        def fitted(values: Float[Tensor, "1 c _h _w"], mode: str = "bilinear") -> Float[Tensor, "h w c"]:
            values = values[..., margin : margin + rows, margin : margin + columns]
            if resized:
                smooth = mode == "bilinear"
                values = functional.interpolate(values, (height, width), mode=mode, antialias=smooth)
            return values[0].permute(1, 2, 0)

        shown = fitted(picture).clamp(0.0, 1.0)
        if composited is None:
            return Rendered(shown)
        size = picture.shape[2:]
        # Between two surfaces there is nothing whose depth could be shown.
        distances = (self.surfaces(rays, composited, finer) - rays.origins).norm(dim=-1)
        depth = functional.interpolate(distances[:, None], size, mode="nearest")
        accumulation = functional.interpolate(composited.features[:, -1:], size, mode="bilinear")
        return Rendered(shown, fitted(depth, "nearest"), fitted(accumulation).clamp(0.0, 1.0))

    def _finer_of(self, view: Cameras) -> Finer:
        """Finer rays of one camera, through the parts of all of its blocks."""
        whole, stride = deepcopy(view), self.config.stride
        whole.height, whole.width = (-(-size // stride) * stride for size in (view.height, view.width))
        device = self.capture.intrinsics.device
        return lambda rays: camera_rays(whole, stride // rays).directions.to(device)

    def surfaces(
        self, rays: LowResRays, composited: Composited, finer: Finer | None = None
    ) -> Float[Tensor, "n mh mw 3"]:
        """Where each of the volume's rays meets what it shows, in the world frame; ``finer`` as for ``composite``."""
        finer = finer or partial(finer_directions, rays.directions)
        return self.in_world(self.chords(rays.origins, finer(self.config.volume_rays)), composited.t)

    def in_world(self, chords: Chords, t: Float[Tensor, "*rays"]) -> Float[Tensor, "*rays 3"]:
        """Places t of rays, one each, in the world frame."""
        points = chords.at(t[..., None], contracted=False)[..., 0, :]
        if self.in_sphere():
            points = points * self.capture.scene_radius + self.capture.scene_centre
        return points

    def perspective(self, camera: Cameras) -> Cameras:
        """A perspective camera in the place of one camera of any kind: its pose and size, and from top to bottom the
        field of view of the student's own pictures."""
        height, width = int(camera.height.flatten()[0]), int(camera.width.flatten()[0])
        own = self.view()
        focal = own.fy * height / own.height
        pose = camera.camera_to_worlds.reshape(1, 3, 4)
        return Cameras(pose, focal, focal, width / 2, height / 2, width=width, height=height)

    def pitch_for(self, reduction: float) -> float:
        """The coarsest trained pitch for a camera whose focal length is the training one divided by ``reduction``."""
        # Few pixels are rounded to whole ones by more than the tolerance.
        _, width = self.capture.size()
        whole = {pitch: max(1, round(width / pitch)) for pitch in self.config.pitches}
        reductions = {pitch: min(pitch, width / pixels) if width > 1 else pitch for pitch, pixels in whole.items()}
        fine_enough = [pitch for pitch, own in reductions.items() if own <= reduction * (1.0 + FOCAL_TOLERANCE)]
        return max(fine_enough, default=min(self.config.pitches))

    def view(self, pitch: float = 1.0) -> PictureGeometry:
        """Geometry of the student's pictures at a pitch."""
        height, width = self.capture.size()
        full = PictureGeometry(height, width, *self.capture.focals_and_centre(), stride=self.config.stride)
        return full if pitch == 1.0 else full.at(pitch)

    def training_camera(self, pose: Float[Tensor, "3 4"], pitch: float = 1.0) -> Cameras:
        """The capture's own camera at a pose: student size, intrinsics, no distortion."""
        view = self.view(pitch)
        return Cameras(
            pose[None].to(self.capture.intrinsics), view.fx, view.fy, view.cx, view.cy, view.width, view.height
        )


def _whole(pixels: float, asked: int) -> int:
    """The nearest whole number of pixels, at least one; of two as near the one that is asked for."""
    return asked if abs(pixels - asked) < 0.501 else max(1, round(pixels))
