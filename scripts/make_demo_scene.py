"""Ray trace the demo capture: a small glossy still life in NeRF "Blender" format, the same bytes on every run.

A second scene, `--scene thin`, holds what is hard to find for a radiance field: a dark chair of thin legs, and wires.
World frame: z up, every surface within 1.27 of the origin. Cameras follow OpenGL: x right, y up, looking along -z.
Inside the tracer N vectors are one (3, N) float32 tensor, and colours are linear until the tone mapping. Radiance
depends on point and direction alone (nothing is random), so `render` can serve as the exact reference image.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.linalg import vecdot
from tyro.conf import Positional

FOV_X = 0.6911112070083618  # horizontal field of view in radians, as in NeRF-Synthetic
GROUND = -0.45  # height of the table top
LIGHT_WIDTH = 0.1  # angular radius of the key light in radians: how soft shadows are
# Offset and strides of each split's low-discrepancy sequence over azimuth and sine of elevation.
SPLITS = {"train": (0.5, 0.754878, 0.569840), "val": (0.13, 0.618034, 0.414214), "test": (0.37, 0.618034, 0.414214)}
Paint = Callable[[Tensor, Tensor], Tensor]  # local points (3, N) and their longitude in turns (N,) to colours (3, N)


def _vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(3, 1)


def _unit(v: Tensor) -> Tensor:  # along dim 0, where torch's own norms are two orders slower
    return v * torch.rsqrt(vecdot(v, v, dim=0))


def _step(low: float, high: float, x: Tensor) -> Tensor:  # smooth, from 0 at low to 1 at high
    s = ((x - low) / (high - low)).clamp(0, 1)
    return s * s * (3 - 2 * s)


def _coats(base: str, *coats: tuple[Tensor, str]) -> Tensor:
    """Linear colours from sRGB hex codes: a base (3, 1), then (3, N) with a layer per mask or weight (N,)."""
    colour = torch.zeros(3, 1)
    for where, code in ((torch.ones(()), base), *coats):
        colour = torch.lerp(colour, _vector(*((v / 255) ** 2.2 for v in bytes.fromhex(code))), where.float())
    return colour


KEY, FILL = _vector(0.49642, -0.40616, 0.7672), _vector(-0.6467, -0.56047, 0.51736)  # unit, towards the lights


def _paint_table(q: Tensor, turn: Tensor) -> Tensor:
    (x, y, z), radius = q, torch.hypot(q[0], q[1])
    maple = (torch.floor(x / 0.18) + torch.floor(y / 0.18)) % 2 > 0
    across, along = torch.where(maple, x, y), torch.where(maple, y, x)
    fibre = across + 0.02 * torch.sin(7 * along + 3 * torch.sin(5 * across))
    grain = 0.5 + 0.3 * torch.sin(95 * fibre + 2 * torch.sin(4 * along)) + 0.2 * torch.sin(41 * fibre)
    board = torch.where(maple, _coats("c08644", (grain, "e2b878")), _coats("3c1d0e", (grain, "75401f")))
    inlay, brass = ((turn * 48) % 1 < 0.5) & ((radius - 1.0).abs() < 0.028), (radius - 0.91).abs() < 0.014
    rim = _coats("7a2020", (inlay, "f2d28b"), (brass, "e8b23a"))
    return torch.where(radius < 0.9, board, torch.where(z > 0.04, rim, _coats("4a1517", (z.abs() < 0.016, "e8b23a"))))


def _paint_ceramic(q: Tensor, turn: Tensor) -> Tensor:
    z = q[2] / 0.42
    zigzag = z + (((turn * 14) % 1) - 0.5).abs() * 0.24 - 0.16
    dots = (((turn * 20) % 1 - 0.5) * math.tau / 20 * 0.84) ** 2 + (z - 0.5) ** 2 < 0.07**2
    lines = ((z - 0.64).abs() < 0.025) | ((z - 0.36).abs() < 0.025) | (zigzag.abs() < 0.035)
    petals, red = (z > 0.72) & ((turn * 16 + 1.5 * z) % 1 < 0.5), dots | (z > 0.93) | ((z < -0.2) & ((z * 9) % 1 < 0.5))
    return _coats("efe3cc", (zigzag.abs() < 0.13, "0f8f86"), (lines, "16305c"), (petals, "f0a30a"), (red, "e0452b"))


def _paint_marble(q: Tensor, turn: Tensor) -> Tensor:
    x, y, z = q / 0.15
    warp = torch.sin(5 * x + 2 * torch.sin(4 * y + z)) + 0.6 * torch.sin(9 * z + 3 * torch.sin(5 * x - 3 * y))
    vein = torch.exp(-5 * torch.sin(4 * y + 3 * z + 2 * warp).abs())
    return _coats("0b6e5c", (0.5 + 0.3 * warp, "49c39a"), (vein, "f0fff0"))


def _stripes(base: str, wide: str, thin: str, starts: int, pitch: float) -> Paint:
    def paint(q: Tensor, turn: Tensor) -> Tensor:
        phase = (starts * turn + pitch * q[2]) % 1
        return _coats(base, (phase < 0.45, wide), ((phase - 0.72).abs() < 0.07, thin))

    return paint


@dataclass
class Solid:
    """A rounded rectangle turned about the local z axis: ball, ring, capsule, drum or table, by its measures."""

    center: tuple[float, float, float]
    rounding: float
    paint: Paint
    ring: float = 0.0  # distance of the rectangle's middle from the axis
    width: float = 0.0  # half sizes of the rectangle before rounding
    height: float = 0.0
    axis: float | None = None  # azimuth in radians of a level axis; None for an upright one
    reflectance: float = 0.05  # at normal incidence; above 0.5 a metal tinted by its paint
    shades: bool = True  # whether it can lie between another solid and the key light

    def __post_init__(self) -> None:
        c, s = math.cos(self.axis or 0), math.sin(self.axis or 0)
        self.rows = torch.tensor([[-s, c, 0.0], [0.0, 0.0, 1.0], [c, s, 0.0]])
        self.radius = math.hypot(self.ring + self.width, self.height) + self.rounding  # of the bounding sphere

    def turned(self, vector: Tensor) -> Tensor:  # from world to local axes
        return vector if self.axis is None else self.rows.to(vector) @ vector

    def local(self, point: Tensor) -> Tensor:
        return self.turned(point - _vector(*self.center).to(point))

    def _excess(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets from the rectangle, radially and along the axis, and the distance from the axis."""
        axial = torch.hypot(q[0], q[1]).clamp_min(1e-9)
        r = axial - self.ring
        return r - r.clamp(-self.width, self.width), q[2] - q[2].clamp(-self.height, self.height), axial

    def distance(self, q: Tensor) -> Tensor:
        """Signed distance (N,) of local points."""
        return torch.hypot(*self._excess(q)[:2]) - self.rounding

    def normal(self, q: Tensor) -> Tensor:
        """World normals (3, N) at local surface points."""
        r, z, axial = self._excess(q)
        normal = _unit(torch.stack((r * q[0] / axial, r * q[1] / axial, z)))
        return normal if self.axis is None else self.rows.T.to(q) @ normal

    def intersect(self, origin: Tensor, direction: Tensor) -> Tensor:
        """Distance (N,) along unit rays to the first hit, inf for none: sphere tracing inside a tight bound."""
        q, step = self.local(origin), self.turned(direction)
        b = vecdot(q, step, dim=0)
        root, result = b * b - vecdot(q, q, dim=0) + self.radius**2, torch.full_like(b, math.inf)
        near = torch.nonzero(root > 0)[:, 0]
        q, step, b, half = q[:, near], step[:, near], b[near], torch.sqrt(root[near])
        z = torch.where(step[2].abs() < 1e-9, 1e-9, step[2])
        middle, slab = -q[2] / z, (self.height + self.rounding) / z.abs()
        t, leave = torch.maximum(-b - half, middle - slab).clamp_min(0), torch.minimum(half - b, middle + slab)
        for _ in range(32):
            gap = self.distance(q + t * step)
            t = t + gap
            if not ((gap > 1e-4) & (t < leave)).any():
                break
        result[near] = torch.where((self.distance(q + t * step) < 1e-3) & (t < leave + 1e-3), t, math.inf)
        return result

    def visibility(self, point: Tensor) -> Tensor:
        """Share (N,) of the key light this solid lets through to each point: the closest miss of a cone march."""
        q, key = self.local(point), self.turned(KEY.to(point))
        along = -vecdot(q, key, dim=0)
        miss = torch.sqrt((vecdot(q, q, dim=0) - along * along).clamp_min(0)) - LIGHT_WIDTH * along.clamp_min(0)
        near = torch.nonzero((along > -self.radius) & (miss < self.radius))[:, 0]
        ball = self.radius == self.rounding  # its closest miss is known
        q, t = q[:, near], (along[near] - (0 if ball else 1.3 * self.radius)).clamp_min(0.012)
        share, result = torch.ones_like(t), torch.ones_like(along)
        for _ in range(1 if ball else 20):
            gap = self.distance(q + t * key)
            share = torch.minimum(share, 0.5 + 0.5 * gap / (LIGHT_WIDTH * t))
            t = t + gap.clamp(0.012, 0.3)
        result[near] = _step(0, 1, share)
        return result

    def openness(self, point: Tensor, normal: Tensor) -> Tensor:
        """Share (N,) of ambient light this solid leaves: its distance against the height above the surface."""
        q, result = self.local(point), torch.ones_like(point[0])
        near = torch.nonzero(vecdot(q, q, dim=0) < (self.radius + 0.4) ** 2)[:, 0]
        q, n = q[:, near], self.turned(normal[:, near])
        for height in (0.06, 0.16, 0.36):
            result[near] -= 0.3 * (1 - self.distance(q + height * n) / height).clamp(0, 1)
        return result


def _ball(x: float, y: float, radius: float, base: str, wide: str, thin: str) -> Solid:
    return Solid((x, y, GROUND + radius), radius, _stripes(base, wide, thin, 3, 0.55 / radius))


SOLIDS = [
    Solid((0.0, 0.0, GROUND - 0.075), 0.025, _paint_table, width=1.075, height=0.05, reflectance=0.035, shades=False),
    Solid((-0.40, 0.20, GROUND + 0.42), 0.42, _paint_ceramic),
    Solid((0.42, 0.42, GROUND + 0.31), 0.31, lambda q, _: _coats("f3e3c8").expand_as(q), reflectance=0.85),
    Solid((0.42, -0.38, GROUND + 0.34), 0.09, _stripes("f7b512", "2a1a6e", "f3ead6", 14, 5.6), ring=0.25, axis=-0.97),
    Solid((-0.34, -0.55, GROUND + 0.16), 0.03, _stripes("f7e6d0", "d5266b", "e88a1c", 11, 2), width=0.15, height=0.13),
    Solid((0.06, -0.06, GROUND + 0.36), 0.09, _stripes("f0e8dc", "d81e2c", "14865a", 1, 2.6), height=0.36),
    Solid((0.06, -0.06, GROUND + 0.93), 0.15, _paint_marble),
    _ball(0.86, 0.06, 0.12, "f07818", "fde3b0", "8c2f0c"),
    _ball(0.04, -0.78, 0.12, "1668c8", "bfe6ff", "f2c230"),
    _ball(-0.82, -0.28, 0.13, "7a2fb5", "f0c4ff", "2c1250"),
    _ball(-0.02, 0.80, 0.13, "e8d51c", "2c7a2c", "fff7c0"),
    _ball(-0.62, 0.74, 0.09, "d8202c", "ffd0c0", "5c0a10"),
    _ball(0.78, -0.66, 0.08, "12a38c", "e8fff4", "0b3f5c"),
]


def _plain(code: str) -> Paint:
    return lambda q, _: _coats(code).expand_as(q)


def _bar(x: float, y: float, z: float, half: float, axis: float | None = None, thick: float = 0.022) -> Solid:
    return Solid((x, y, z), thick, _stripes("1c1410", "2e2018", "6e4a24", 2, 6), height=half, axis=axis)


_CORNERS = [(x, y) for x in (-0.36, 0.36) for y in (-0.36, 0.36)]
THIN_SOLIDS = [
    *(_bar(x, y, -0.42 if x > 0 else -0.02, 0.42 if x > 0 else 0.82) for x, y in _CORNERS),  # legs, two reach up
    *(_bar(0.0, y, z, 0.36, 0.0) for y in (-0.36, 0.36) for z in (-0.62, 0.0)),  # level bars along x
    *(_bar(x, 0.0, z, 0.36, math.pi / 2) for x in (-0.36, 0.36) for z in (-0.62, 0.0)),  # and along y
    *(_bar(-0.36, 0.0, z, 0.36, math.pi / 2, 0.016) for z in (0.3, 0.52, 0.78)),  # rungs of the back
    *(_bar(x, 0.0, 0.0, 0.36, math.pi / 2, 0.012) for x in (-0.2, -0.05, 0.1, 0.25)),  # straps of the seat
    Solid((0.1, -0.1, 0.45), 0.010, _plain("301818"), ring=0.3, axis=0.7),  # wires
    Solid((0.1, 0.12, 0.5), 0.010, _plain("182030"), ring=0.22),
    Solid((0.45, 0.3, 0.1), 0.008, _plain("101010"), ring=0.4, axis=-0.4),
]
"""Nothing thicker than a thirtieth of the whole."""
SCENES = {"still-life": SOLIDS, "thin": THIN_SOLIDS}
SceneName = Literal["still-life", "thin"]


def sky(direction: Tensor) -> Tensor:
    """Linear radiance (3, N) of the studio around the scene: a sky, a floor, the round key lamp and a window."""
    up, key, fill = direction[2], KEY.to(direction), FILL.to(direction)
    colour = torch.lerp(_vector(0.95, 0.84, 0.76), _vector(0.10, 0.26, 0.70), torch.sqrt(up.clamp_min(0)))
    colour = torch.lerp(colour, _vector(0.17, 0.12, 0.11), _step(0.02, -0.12, up))
    colour = colour + _vector(15.0, 13.8, 11.6) * _step(math.cos(0.2), math.cos(0.14), vecdot(key, direction, dim=0))
    u, v = (torch.atan2(direction[1], direction[0]) - torch.atan2(fill[1], fill[0])).abs(), (up - fill[2]).abs()
    pane = _step(0.5, 0.46, u) * _step(0.3, 0.27, v) * _step(0.02, 0.05, u) * _step(0.01, 0.03, v)
    return colour + _vector(2.6, 3.0, 3.6) * pane


def radiance(
    origin: Tensor, direction: Tensor, bounces: int = 1, solids: list[Solid] = SOLIDS
) -> tuple[Tensor, Tensor]:
    """Linear radiance (3, N) along unit world rays and whether they hit (N,); the last reflection sees only the sky."""
    distance, which = torch.stack([solid.intersect(origin, direction) for solid in solids]).min(0)
    colour, hit = sky(direction), distance < math.inf
    counts = torch.bincount(which[hit], minlength=len(solids))
    order = torch.argsort(torch.where(hit, which, len(solids)), stable=True)[: int(counts.sum())]  # hits by solid
    ray = direction[:, order]
    point = origin[:, order] + distance[order] * ray
    parts = [(solid, solid.local(q)) for solid, q in zip(solids, point.split(counts.tolist(), dim=1), strict=True)]
    normal = torch.cat([solid.normal(q) for solid, q in parts], dim=1)
    paint = torch.cat([solid.paint(q, torch.atan2(q[1], q[0]) / math.tau) for solid, q in parts], dim=1)
    f0 = torch.tensor([solid.reflectance for solid in solids]).repeat_interleave(counts)
    shadow, open_share = torch.ones_like(f0), torch.ones_like(f0)
    for solid in solids:
        shadow = shadow * solid.visibility(point) if solid.shades else shadow
        open_share = open_share * solid.openness(point, normal)
    to_key, to_fill = KEY.to(ray), FILL.to(ray)
    facing, metal = -vecdot(normal, ray, dim=0).clamp_max(0), f0 > 0.5
    fresnel = torch.lerp(torch.where(metal, paint, 1.0) * f0, torch.ones(1), (1 - facing).clamp_min(0) ** 5)  # Schlick
    ambient = torch.lerp(_vector(0.30, 0.22, 0.16), _vector(0.50, 0.56, 0.68), 0.5 + 0.5 * normal[2]) * open_share
    key = _vector(2.2, 2.0, 1.7) * vecdot(to_key, normal, dim=0).clamp_min(0) * shadow
    fill = _vector(0.22, 0.28, 0.40) * vecdot(to_fill, normal, dim=0).clamp_min(0) * open_share
    lobe = vecdot(_unit(to_key - ray), normal, dim=0).clamp_min(0) ** 60  # Blinn-Phong
    mirror = _unit(ray + 2 * facing * normal)
    seen = radiance(point + 2e-3 * normal, mirror, bounces - 1, solids)[0] if bounces else sky(mirror)
    diffuse = paint * (ambient + key + fill) * (1 - f0) * ~metal
    colour[:, order] = diffuse + fresnel * seen * (0.3 + 0.7 * open_share) + 0.2 * key * lobe
    return colour, hit


@torch.no_grad()
def render(
    camera_to_world: Tensor,
    width: int,
    height: int,
    focal: float,
    supersample: int = 3,
    solids: list[Solid] = SOLIDS,
    device: torch.device | str = "cpu",
    centre: tuple[float, float] | None = None,
) -> Tensor:
    """Image (height, width, 4) of display RGB and straight alpha in 0..1, float32 on `device`; RGB is 0 where alpha is.

    `camera_to_world` (3, 4) is an OpenGL pose, `focal` in pixels; a pixel averages a grid of `supersample`^2 rays.
    `centre` is the principal point (right, down) in pixels, that of the image if it is not given.
    """
    right, down = centre or (width / 2, height / 2)
    on_cpu = torch.device(device).type == "cpu"
    with nullcontext() if on_cpu else torch.device(device):  # where numbers that stand in the code become tensors
        v, u = (
            ((torch.arange(count * supersample) + 0.5) / supersample - middle) / focal
            for count, middle in ((height, down), (width, right))
        )
        v, u = torch.meshgrid(v, u, indexing="ij")
        return _render(camera_to_world.detach().to(device, torch.float32), v, u, supersample, solids)


def _render(pose: Tensor, v: Tensor, u: Tensor, supersample: int, solids: list[Solid]) -> Tensor:
    height, width = (count // supersample for count in u.shape)
    rays = _unit(pose[:, :3] @ torch.stack((u, -v, -torch.ones_like(u))).reshape(3, -1))
    strips = []
    # Bounds memory, and keeps a CPU's working set in its cache.
    for strip in rays.split(1 << (16 if pose.device.type == "cpu" else 20), dim=1):
        colour, hit = radiance(pose[:, 3:].expand_as(strip), strip, solids=solids)
        colour = 0.55 * colour  # exposure, then Narkowicz' fit of the ACES film curve and display gamma
        colour = (colour * (2.51 * colour + 0.03)) / (colour * (2.43 * colour + 0.59) + 0.14)
        strips.append(torch.cat((colour.clamp(0, 1) ** (1 / 2.2) * hit, hit[None].float())))
    image = torch.cat(strips, dim=1).view(4, height, supersample, width, supersample).mean((2, 4))
    straight = torch.cat((image[:3] / image[3:].clamp_min(1e-6), image[3:]))
    return straight.permute(1, 2, 0).clamp(0, 1).contiguous()


def look_at(eye: Tensor, target: Tensor) -> Tensor:
    """OpenGL camera-to-world pose (3, 4) from world point `eye` (3,) towards `target` (3,), z upwards in the image."""
    back = _unit(eye - target)
    right = _unit(torch.stack((-back[1], back[0], torch.zeros_like(back[0]))))
    return torch.stack((right, torch.linalg.cross(back, right), back, eye), dim=1)


def sample_cameras(split: str, count: int) -> Tensor:
    """Camera-to-world poses (count, 3, 4) at elevations of 5 to 75 degrees; a longer list starts with the shorter."""
    offset, *strides = SPLITS[split]
    strides = torch.tensor((*strides, *(p**0.5 for p in (3, 5, 7, 11))), dtype=torch.float64)
    u = (offset + torch.arange(count)[:, None] * strides) % 1
    azimuth, z = math.tau * u[:, 0], 0.0872 + (0.9659 - 0.0872) * u[:, 1]  # sines of 5 and 75 degrees
    level, radius = torch.sqrt(1 - z * z), 4.03 * (0.95 + 0.1 * u[:, 2:3])
    eyes = radius * torch.stack((level * torch.cos(azimuth), level * torch.sin(azimuth), z), dim=1)
    targets = torch.tensor([0.0, 0.0, -0.05]) + 0.06 * (u[:, 3:] - 0.5)
    return torch.stack([look_at(eye, target) for eye, target in zip(eyes, targets, strict=True)]).float()


def write_scene(
    target: Positional[Path],
    size: int = 128,
    train: int = 100,
    val: int = 8,
    test: int = 8,
    supersample: int = 3,
    scene: SceneName = "still-life",
    device: str = "cpu",
) -> str:
    """Ray trace the demo capture in NeRF "Blender" format to the folder `target`, which appears once it is complete.

    Images are `size` pixels square with `supersample`^2 rays per pixel; `train`, `val` and `test` count the views
    of `scene`. On another `device` than the CPU the same pictures come out but for rounding.
    Returns a line saying what was done. The same scene already there is kept; anything else there: FileExistsError.
    """
    target, counts, start = target.resolve(), {"train": train, "val": val, "test": test}, time.perf_counter()
    if min(size, supersample, *counts.values()) < 1:
        raise ValueError("sizes and counts are at least 1")
    settings = {"generator": "mobiler2l_ns demo scene, version 1", "size": size, "supersample": supersample, **counts}
    if scene != "still-life":
        settings["scene"] = scene
    names, record = [f"{split}/r_{i}" for split in counts for i in range(counts[split])], json.dumps(settings, indent=1)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        same = (target / "scene.json").is_file() and (target / "scene.json").read_text() == record
        if same and all((target / f"{name}.png").is_file() for name in names):
            return f"Scene already complete in {target}"
        raise FileExistsError(f"{target} is not this scene with these settings; name another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    poses, focal = {split: sample_cameras(split, counts[split]) for split in counts}, size / 2 / math.tan(FOV_X / 2)
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-"))
        partial, threads = Path(scratch) / target.name, torch.get_num_threads()
        for split in counts:
            (partial / split).mkdir(parents=True)
            rows = [[*pose, [0.0, 0.0, 0.0, 1.0]] for pose in poses[split].tolist()]
            frames = [{"file_path": f"./{split}/r_{i}", "transform_matrix": matrix} for i, matrix in enumerate(rows)]
            meta = {"camera_angle_x": FOV_X, "frames": frames}
            (partial / f"transforms_{split}.json").write_text(json.dumps(meta, indent=1))
        # One thread per view: splitting every small operation costs far more, above all on a busy machine.
        stack.callback(torch.set_num_threads, threads)
        torch.set_num_threads(1)
        pool = ThreadPoolExecutor(threads if device == "cpu" else 1)
        stack.callback(pool.shutdown, cancel_futures=True)
        images = pool.map(
            lambda pose: render(pose, size, size, focal, supersample, SCENES[scene], device).cpu(),
            torch.cat([*poses.values()]),
        )
        brief = len(names) * (size * supersample) ** 2 < 1.5e6  # rays; about two seconds
        bar = track(images, "Rendering", len(names), console=Console(stderr=True), transient=True, disable=brief)
        for name, image in zip(names, bar, strict=True):
            Image.fromarray((image * 255).round().byte().numpy()).save(partial / f"{name}.png")
        (partial / "scene.json").write_text(record)
        partial.rename(target)
    return f"Scene written to {target} in {time.perf_counter() - start:.1f} s"


if __name__ == "__main__":
    try:
        print(tyro.cli(write_scene))
    except (FileExistsError, ValueError) as error:
        raise SystemExit(str(error)) from None
