"""The web page's volume without WebGPU: functions of its WebAssembly module, made for one student's volume.

Rays are six rows of float32, ``stride`` bytes apart: x, y, z of where they start and of their way. They come in fours.
Placed points are rows, too, ``stride`` bytes apart: the places t, the optical depths, and what the proposals stop.

    place(rays, placed, stride, count, bins, occupied, scratch)
        Points of coarse rays. bins: middle and step of each; occupied: a byte for each cell of the density, 0 where all
        of its eight corners are; scratch: four numbers for each bin.
    look_up(rays, stride, placed, placed_stride, columns, count, features, optical, active) -> how many fours
        What the planes hold at the points of fine rays. columns: for each, how many bytes from placed its coarse ray
        lies. Fours of rays along which nothing is stopped are left out: active lists where the others begin, in bytes;
        features and optical (of each point four optical depths, then four places t) hold only those.
    composite(values, optical, active, fours, out, end, scratch, surfaces)
        What is seen along fine rays, of which out is the first and end lies behind the last. values: features, then the
        density's logarithm, in eights; scratch: four numbers for each point; surfaces: of each ray the mean place t of
        what is seen, and from NOWHERE / 2 on where that is too little.

Points of features and values are ordered by fours of rays, then from front to back, then by rays.
"""

from __future__ import annotations

from dataclasses import dataclass

from mobiler2l_ns.export.formats.web.instructions import (
    Function,
    add,
    add_int,
    any_true,
    bits_and,
    bits_or,
    div,
    exponential,
    floats,
    fma,
    gather,
    get,
    greater,
    grow,
    if_,
    int_or,
    integers,
    lane_of,
    less,
    load,
    load_byte,
    load_int,
    load_splat,
    logarithm,
    magnitude,
    maximum,
    minimum,
    mul,
    mul_int,
    number,
    plus,
    put,
    shift_left,
    splat,
    store,
    store_int,
    sub,
    times,
    to_float,
    to_int,
    while_,
)
from mobiler2l_ns.student.proposals import FAINT, SOLID
from mobiler2l_ns.student.renderer import SOLID as SHOWN
from mobiler2l_ns.student.volume import STEEPEST

EMPTY = 1e-6
"""Light that the proposals may stop along a ray that counts as empty: were its points as dense as they can be, all it
shows would be a share of 4e-4."""
NOWHERE = 1e9
"""Added to the place of what is seen of less than SHOWN."""
ALONG = ((0, 1), (0, 2), (1, 2))
"""Axes of the planes: across and down."""


@dataclass(frozen=True)
class Level:
    """Three planes: cells each way, and where they lie in the memory, in bytes."""

    cells: int
    address: int


@dataclass(frozen=True)
class VolumeShape:
    """What the functions are made for; addresses are bytes in the memory."""

    contracted: bool
    scales: tuple[float, ...]
    """From coordinates to the box, -1..1: x * scale + shift."""
    shifts: tuple[float, ...]
    first: float
    """Where the first bin begins."""
    bins: int
    points: int
    cells: int
    """Of the density, each way."""
    density: int
    """Address of the density."""
    channels: int
    """Of the planes, a multiple of four."""
    levels: tuple[Level, ...]
    features: int

    @property
    def composited(self) -> int:
        """Channels of a composited ray: features, accumulation, filled up to fours."""
        return -(-(self.features + 1) // 4) * 4

    @property
    def values(self) -> int:
        """Channels of a point's values: features, density, filled up to eights."""
        return -(-(self.features + 1) // 8) * 8

    @property
    def looked_up(self) -> int:
        """Channels of a point's features in the planes."""
        return self.channels * len(self.levels)


class _Rays:
    """Four rays, and a point on each of them in units of the box, -1..1."""

    def __init__(self, function: Function, shape: VolumeShape) -> None:
        self.shape = shape
        self.start, self.along, self.point = (function.vectors(3) for _ in range(3))
        self.size = function.vector()
        self.row = function.integer()

    def take(self, rays: bytes, stride: int) -> bytes:
        """Args: the address of the first of four, a local."""
        code = put(self.row, rays)
        for local in (*self.start, *self.along):
            code += put(local, load(get(self.row))) + grow(self.row, get(stride))
        return code

    def go(self, t: int) -> bytes:
        """Move the points to the places t, a local."""
        code = b""
        for start, along, point in zip(self.start, self.along, self.point, strict=True):
            code += put(point, add(get(start), mul(get(t), get(along))))
        if self.shape.contracted:
            x, y, z = (magnitude(get(point)) for point in self.point)
            code += put(self.size, maximum(maximum(x, y), maximum(z, floats(1.0))))
            factor = div(sub(floats(2.0), div(floats(1.0), get(self.size))), get(self.size))
            code += put(self.size, factor)
            code += b"".join(put(point, mul(get(point), get(self.size))) for point in self.point)
        for point, scale, shift in zip(self.point, self.shape.scales, self.shape.shifts, strict=True):
            inside = add(mul(get(point), floats(scale)), floats(shift))
            code += put(point, minimum(maximum(inside, floats(-1.0)), floats(1.0)))
        return code

    def cell(self, cells: int, whole: list[int], part: list[int]) -> bytes:
        """Cells of a grid that the points lie in, and which parts of them lie before them."""
        code = b""
        for axis in range(3):
            half = (cells - 1) / 2
            code += put(part[axis], add(mul(get(self.point[axis]), floats(half)), floats(half)))
            code += put(whole[axis], to_int(minimum(get(part[axis]), floats(cells - 1.5))))
            code += put(part[axis], sub(get(part[axis]), to_float(get(whole[axis]))))
        return code


def _place(shape: VolumeShape) -> Function:
    function = Function(7)
    rays, placed, stride, count, bins, occupied, scratch = range(7)
    end, at, bin_, to = function.integers(4)
    cell = function.integers(4)
    t, behind, reached, stopped, total, whole_, rest = function.vectors(7)
    index, square = function.vectors(2)
    whole, part, corner = function.vectors(3), function.vectors(3), function.vectors(8)
    four = _Rays(function, shape)

    lerp = b""
    for axis, apart in ((0, 1), (1, 2), (2, 4)):  # along x, then y, then z
        for low in range(0, 8, 2 * apart):
            between = mul(sub(get(corner[low + apart]), get(corner[low])), get(part[axis]))
            lerp += put(corner[low], add(get(corner[low]), between))
    corners = b""
    for number_, local in enumerate(corner):
        x, y, z = number_ & 1, number_ >> 1 & 1, number_ >> 2
        offset = shape.density + 4 * (x + shape.cells * (y + shape.cells * z))
        corners += put(local, gather([get(lane) for lane in cell], offset))
    passed = exponential(sub(floats(0.0), get(behind)), whole_, rest)
    inside = b"".join(put(lane, lane_of(shift_left(get(index), 2), i)) for i, lane in enumerate(cell))
    inside += corners + lerp + put(behind, add(get(behind), get(corner[0]))) + put(t, passed)
    inside += store(get(to), sub(get(reached), get(t))) + put(reached, get(t))
    body = put(t, load_splat(get(bin_))) + four.go(t) + four.cell(shape.cells, whole, part)
    row = add_int(mul_int(get(whole[2]), integers(shape.cells)), get(whole[1]))
    body += put(index, add_int(mul_int(row, integers(shape.cells)), get(whole[0])))
    filled = [load_byte(plus(get(occupied), lane_of(get(index), lane))) for lane in range(4)]
    body += if_(int_or(int_or(int_or(filled[0], filled[1]), filled[2]), filled[3]), inside, store(get(to), floats(0.0)))
    body += grow(bin_, number(8)) + grow(to, number(16))

    def again(work: bytes) -> bytes:
        """Bin after bin."""
        last = plus(get(bins), number(8 * shape.bins))
        return put(bin_, get(bins)) + put(to, get(scratch)) + while_(less(get(bin_), last), work)

    # Rows of what is placed: t, optical depth, stopped.
    target = function.integer()
    places = function.vectors(shape.points)
    before, weight, inverse, step = function.vectors(4)
    each = put(weight, add(load(get(to)), floats(FAINT / shape.bins))) + put(step, load_splat(get(bin_), 4))
    each += put(inverse, div(floats(1.0), get(weight)))
    for k, place in enumerate(places):
        quantile = sub(mul(get(total), floats((k + 0.5) / shape.points)), get(before))
        share = minimum(maximum(mul(quantile, get(inverse)), floats(0.0)), floats(1.0))
        each += put(place, add(get(place), mul(share, get(step))))
    each += put(before, add(get(before), get(weight))) + grow(bin_, number(8)) + grow(to, number(16))
    spread = put(total, add(get(stopped), floats(FAINT))) + put(before, floats(0.0))
    spread += b"".join(put(place, floats(shape.first)) for place in places) + again(each)
    spread += put(target, plus(get(placed), get(at)))
    for place in places:
        spread += store(get(target), get(place)) + grow(target, get(stride))
    spread += put(total, mul(minimum(get(stopped), floats(SOLID)), floats(1.0 / shape.points)))
    for k in range(shape.points):
        left, then = (sub(floats(1.0), mul(get(total), floats(float(i)))) for i in (k, k + 1))
        spread += put(weight, div(left, then))
        spread += store(get(target), logarithm(get(weight), whole_, rest, square)) + grow(target, get(stride))
    four_rays = four.take(plus(get(rays), get(at)), stride)
    four_rays += put(behind, floats(0.0)) + put(reached, floats(1.0)) + again(body)
    four_rays += put(stopped, sub(floats(1.0), get(reached)))
    beyond = plus(plus(get(placed), get(at)), times(get(stride), number(2 * shape.points)))
    four_rays += store(beyond, get(stopped))
    nothing = put(target, plus(get(placed), get(at)))
    nothing += (store(get(target), floats(0.0)) + grow(target, get(stride))) * (2 * shape.points)
    four_rays += if_(any_true(greater(get(stopped), floats(EMPTY))), spread, nothing) + grow(at, number(16))
    function.code = put(end, times(get(count), number(4))) + while_(less(get(at), get(end)), four_rays)
    return function


def _look_up(shape: VolumeShape, fused: bool) -> Function:
    function = Function(9, results=1)
    rays, stride, placed, placed_stride, columns, count, features, optical, active = range(9)
    end, at, found = function.integers(3)
    coarse, place = function.integers(4), function.integer()
    t, factor = function.vectors(2)
    whole, part, rest = (function.vectors(3) for _ in range(3))
    offset, total = function.vectors(3), function.vectors(shape.channels // 4)
    corners = [function.vectors(4) for _ in ALONG]
    four, multiplied = _Rays(function, shape), fma(fused)

    def level(number_: int) -> bytes:
        planes = shape.levels[number_]
        cells, pixel = planes.cells, 4 * shape.channels
        code = four.cell(cells, whole, part)
        code += b"".join(put(rest[axis], sub(floats(1.0), get(part[axis]))) for axis in range(3))
        for plane, (across, down) in enumerate(ALONG):
            index = add_int(mul_int(get(whole[down]), integers(cells)), get(whole[across]))
            code += put(offset[plane], mul_int(index, integers(pixel)))
            shares = [(x, y) for y in (rest[down], part[down]) for x in (rest[across], part[across])]
            code += b"".join(
                put(local, mul(get(x), get(y))) for local, (x, y) in zip(corners[plane], shares, strict=True)
            )
        for lane in range(4):
            for plane in range(3):
                code += put(place, lane_of(get(offset[plane]), lane))
                begin = planes.address + plane * cells * cells * pixel
                for corner, beyond in enumerate((0, pixel, cells * pixel, (cells + 1) * pixel)):
                    code += put(factor, splat(corners[plane][corner], lane))
                    for quad, sum_ in enumerate(total):
                        value = load(get(place), begin + beyond + 16 * quad)
                        first = plane == corner == 0
                        summed = mul(get(factor), value) if first else multiplied(get(factor), value, get(sum_))
                        code += put(sum_, summed)
            to = 4 * (lane * shape.looked_up + number_ * shape.channels)
            code += b"".join(store(get(features), get(sum_), to + 16 * quad) for quad, sum_ in enumerate(total))
        return code

    def onwards(locals_: list[int]) -> bytes:
        return b"".join(grow(local, get(placed_stride)) for local in locals_)

    # The addresses of the coarse rays' stopped light, then of t of each point, whose optical depth lies further.
    point = put(t, gather([get(ray) for ray in coarse])) + four.go(t)
    point += b"".join(level(number_) for number_ in range(len(shape.levels))) + grow(
        features, number(16 * shape.looked_up)
    )
    further = [plus(get(ray), times(get(placed_stride), number(shape.points))) for ray in coarse]
    point += store(get(optical), gather(further)) + store(get(optical), get(t), 16)
    point += grow(optical, number(32)) + onwards(coarse)
    todo = function.integer()
    work = store_int(get(active), get(at)) + grow(active, number(4)) + grow(found, number(1))
    work += four.take(plus(get(rays), get(at)), stride) + put(todo, number(shape.points))
    work += while_(get(todo), point + grow(todo, number(-1)))
    body = b"".join(
        put(ray, plus(load_int(plus(get(columns), get(at)), 4 * i), get(placed))) for i, ray in enumerate(coarse)
    )
    stopped = gather([plus(get(ray), times(get(placed_stride), number(2 * shape.points))) for ray in coarse])
    body += if_(any_true(greater(stopped, floats(EMPTY))), work) + grow(at, number(16))
    code = put(end, times(get(count), number(4))) + while_(less(get(at), get(end)), body)
    function.code = code + get(found)
    return function


def _composite(shape: VolumeShape, fused: bool) -> Function:
    function = Function(8)
    values, optical, active, fours, out, end, scratch, surfaces = range(8)
    todo, weights, to, point = function.integers(4)
    passing, density, seen, factor, whole, rest, place = function.vectors(7)
    quads = shape.composited // 4
    total = function.vectors(quads)
    multiplied = fma(fused)
    pixel, row = 4 * shape.values, 16 * shape.values
    logarithms = gather([plus(get(point), number(lane * pixel)) for lane in range(4)], 4 * shape.features)
    limited = minimum(maximum(logarithms, floats(-STEEPEST)), floats(STEEPEST))
    weigh = put(density, mul(load(get(optical)), exponential(limited, whole, rest)))
    weigh += put(seen, exponential(sub(floats(0.0), get(density)), whole, rest))
    weigh += put(factor, mul(get(passing), sub(floats(1.0), get(seen)))) + store(get(weights), get(factor))
    weigh += put(place, multiplied(get(factor), load(get(optical), 16), get(place)))
    weigh += put(passing, mul(get(passing), get(seen)))
    weigh += grow(weights, number(16)) + grow(optical, number(32)) + grow(point, number(row))
    finish = plus(get(scratch), number(16 * shape.points))
    code = put(weights, get(scratch)) + put(point, get(values)) + put(passing, floats(1.0))
    code += put(place, floats(0.0)) + while_(less(get(weights), finish), weigh)
    code += put(factor, sub(floats(1.0), get(passing)))
    mean = div(get(place), maximum(get(factor), floats(EMPTY)))
    beyond = bits_and(floats(NOWHERE), greater(floats(SHOWN), get(factor)))
    code += store(plus(get(surfaces), load_int(get(active))), add(mean, beyond))
    # The accumulation is a feature that is 1 everywhere; it lies where the density's logarithm is.
    one = shape.features % 4
    kept = integers(*(0 if lane >= one else 0xFFFFFFFF for lane in range(4)))
    set_ = integers(*(0x3F800000 if lane == one else 0 for lane in range(4)))
    code += put(to, plus(get(out), times(load_int(get(active)), number(shape.composited))))
    for lane in range(4):
        each = put(factor, load_splat(get(weights), 4 * lane))
        for quad, sum_ in enumerate(total):
            value = load(get(point), lane * pixel + 16 * quad)
            if quad == quads - 1:
                value = bits_or(bits_and(value, kept), set_)
            each += put(sum_, multiplied(get(factor), value, get(sum_)))
        each += grow(weights, number(16)) + grow(point, number(row))
        code += put(weights, get(scratch)) + put(point, get(values))
        code += b"".join(put(sum_, floats(0.0)) for sum_ in total) + while_(less(get(weights), finish), each)
        inside = b"".join(store(get(to), get(sum_), 16 * quad) for quad, sum_ in enumerate(total))
        code += if_(less(get(to), get(end)), inside) + grow(to, number(4 * shape.composited))
    code += put(values, get(point)) + grow(active, number(4)) + grow(todo, number(-1))
    function.code = put(todo, get(fours)) + while_(get(todo), code)
    return function


def volume_functions(shape: VolumeShape, fused: bool) -> dict[str, Function]:
    """The functions of the module, by name."""
    return {"place": _place(shape), "look_up": _look_up(shape, fused), "composite": _composite(shape, fused)}
