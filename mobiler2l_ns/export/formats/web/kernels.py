"""The web page's arithmetic without WebGPU: one WebAssembly module, assembled here.

The module imports its memory as ``env.memory``. All arrays are float32, pixel after pixel, channels in eights:

    multiply(x, x_step, weights, bias, added, out, out_step, pixels, inputs, outputs)
        out[p] = bias + added[p] + x[p] @ weights, for pixels that lie x_step and out_step bytes apart; added may be 0
        (nothing) or out itself. Weights are packed as [outputs / 8][inputs][8]; inputs are a multiple of four.
    activate(x, count, kind)    in place; kind 1 ReLU, 2 GELU (by erf), 3 sigmoid
    sum(a, b, out, count)       out = a + b

Where the student has a volume there are those of ``volume_kernels``, too.
"""

from __future__ import annotations

from mobiler2l_ns.export.formats.web.instructions import (
    Function,
    add,
    bits_and,
    bits_or,
    div,
    equal,
    exponential,
    floats,
    fma,
    get,
    grow,
    if_,
    less,
    load,
    load_splat,
    magnitude,
    maximum,
    minus,
    module,
    mul,
    number,
    plus,
    put,
    store,
    sub,
    times,
    while_,
)
from mobiler2l_ns.export.formats.web.volume_kernels import VolumeShape, volume_functions

ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2, "sigmoid": 3}
"""Numbers of the activations, in this module and in the page."""

_PIXELS = 4  # of a tile; its 8 outputs are two vectors


def _multiply(fused: bool) -> Function:
    function = Function(10)
    x, x_step, weights, bias, added, out, out_step, pixels, inputs, outputs = range(10)
    row, to, beside, todo, end, weight, beside_start = function.integers(7)
    pointer = function.integers(_PIXELS)
    total = function.vectors(2 * _PIXELS)
    first, second, value = function.vectors(3)
    multiplied = fma(fused)

    def tile(count: int) -> bytes:
        targets = [get(to) if i == 0 else plus(get(to), times(get(out_step), number(i))) for i in range(count)]
        sources = [get(beside) if i == 0 else plus(get(beside), times(get(out_step), number(i))) for i in range(count)]
        code = b"".join(put(total[2 * i + half], load(get(bias), 16 * half)) for i in range(count) for half in (0, 1))
        code += if_(
            get(added),
            b"".join(
                put(total[2 * i + half], add(get(total[2 * i + half]), load(sources[i], 16 * half)))
                for i in range(count)
                for half in (0, 1)
            ),
        )
        code += b"".join(put(pointer[i], plus(get(row), times(get(x_step), number(i)))) for i in range(count))
        code += put(weight, get(weights))
        step = b""
        for channel in range(4):  # unrolled
            step += put(first, load(get(weight), 32 * channel)) + put(second, load(get(weight), 32 * channel + 16))
            for i in range(count):
                step += put(value, load_splat(get(pointer[i]), 4 * channel))
                for half, factor in enumerate((first, second)):
                    accumulator = total[2 * i + half]
                    step += put(accumulator, multiplied(get(value), get(factor), get(accumulator)))
        step += grow(weight, number(128)) + b"".join(grow(pointer[i], number(16)) for i in range(count))
        code += while_(less(get(weight), get(end)), step)
        code += b"".join(
            store(targets[i], get(total[2 * i + half]), 16 * half) for i in range(count) for half in (0, 1)
        )
        code += grow(row, times(get(x_step), number(count)))
        code += grow(to, times(get(out_step), number(count)))
        code += grow(beside, times(get(out_step), number(count)))
        return code + put(todo, minus(get(todo), number(count)))

    body = put(row, get(x)) + put(to, get(out)) + put(beside, get(beside_start)) + put(todo, get(pixels))
    body += put(end, plus(get(weights), times(get(inputs), number(32))))
    body += while_(less(number(_PIXELS - 1), get(todo)), tile(_PIXELS))
    body += while_(less(number(0), get(todo)), tile(1))
    body += put(weights, get(end)) + grow(bias, number(32)) + grow(out, number(32))
    body += grow(beside_start, number(32)) + put(outputs, minus(get(outputs), number(8)))
    function.code = put(beside_start, get(added)) + while_(less(number(0), get(outputs)), body)
    return function


def _activate() -> Function:
    function = Function(3)
    x, count, kind, end = *range(3), function.integer()
    value, whole, rest, inverse = function.vectors(4)

    def for_each(of_value: bytes) -> bytes:
        body = put(value, load(get(x))) + store(get(x), of_value) + grow(x, number(16))
        return while_(less(get(x), get(end)), body)

    one = floats(1.0)
    # erf by Abramowitz and Stegun 7.1.26, good to 1.5e-7.
    size = mul(magnitude(get(value)), floats(0.5**0.5))
    square = mul(mul(get(value), get(value)), floats(-0.5))
    gelu = put(inverse, div(one, add(mul(size, floats(0.3275911)), one)))
    series = floats(1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592, 0.0):
        series = add(mul(series, get(inverse)), floats(coefficient))
    gelu += put(inverse, sub(one, mul(series, exponential(square, whole, rest))))
    sign = bits_and(get(value), floats(-0.0))
    gelu_value = gelu + mul(mul(get(value), floats(0.5)), add(one, bits_or(get(inverse), sign)))
    negative = sub(floats(0.0), get(value))
    sigmoid = div(one, add(one, exponential(negative, whole, rest)))
    code = put(end, plus(get(x), times(get(count), number(4))))
    for name, value_of in (("relu", maximum(get(value), floats(0.0))), ("gelu", gelu_value), ("sigmoid", sigmoid)):
        code += if_(equal(get(kind), number(ACTIVATIONS[name])), for_each(value_of))
    function.code = code
    return function


def _sum() -> Function:
    function = Function(4)
    a, b, out, count, end = *range(4), function.integer()
    body = store(get(out), add(load(get(a)), load(get(b))))
    body += b"".join(grow(pointer, number(16)) for pointer in (a, b, out))
    code = put(end, plus(get(a), times(get(count), number(4))))
    function.code = code + while_(less(get(a), get(end)), body)
    return function


def assemble(fused: bool, shape: VolumeShape | None = None) -> bytes:
    """The module.

    Args:
        fused: multiplies and adds in one instruction of relaxed SIMD, which not every browser has.
        shape: of the student's volume.
    """
    functions = {"multiply": _multiply(fused), "activate": _activate(), "sum": _sum()}
    return module(functions | ({} if shape is None else volume_functions(shape, fused)))
