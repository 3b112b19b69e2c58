"""The web page's arithmetic without WebGPU: one WebAssembly module of three functions, assembled here.

The module imports its memory as ``env.memory``. All arrays are float32, pixel after pixel, channels in eights:

    multiply(x, x_step, weights, bias, added, out, out_step, pixels, inputs, outputs)
        out[p] = bias + added[p] + x[p] @ weights, for pixels that lie x_step and out_step bytes apart; added may be 0
        (nothing) or out itself. Weights are packed as [outputs / 8][inputs][8].
    activate(x, count, kind)    in place; kind 1 ReLU, 2 GELU (by erf), 3 sigmoid
    sum(a, b, out, count)       out = a + b

Instructions are bytes in WebAssembly's own (postfix) order: a function here takes the code of its operands and returns
theirs followed by its own.
"""

from __future__ import annotations

import struct

ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2, "sigmoid": 3}
"""Numbers of the activations, in this module and in the page."""

_I32, _V128 = 0x7F, 0x7B
_PIXELS = 4  # of a tile; its 8 outputs are two vectors


def _unsigned(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _signed(value: int) -> bytes:
    out = bytearray()
    while True:
        low, value = value & 0x7F, value >> 7
        done = value == (-1 if low & 0x40 else 0)
        out.append(low | (0 if done else 0x80))
        if done:
            return bytes(out)


def _vector(items: list[bytes]) -> bytes:
    return _unsigned(len(items)) + b"".join(items)


def _simd(code: int) -> bytes:
    return b"\xfd" + _unsigned(code)


def _operation(code: bytes):
    return lambda *operands: b"".join(operands) + code


def _get(local: int) -> bytes:
    return b"\x20" + _unsigned(local)


def _set(local: int, value: bytes) -> bytes:
    return value + b"\x21" + _unsigned(local)


def _number(value: int) -> bytes:
    return b"\x41" + _signed(value)


def _floats(value: float) -> bytes:
    """A vector of four times the same."""
    return _simd(0x0C) + struct.pack("<4f", *[value] * 4)


def _access(code: int, align: int):
    return lambda address, offset=0: address + _simd(code) + _unsigned(align) + _unsigned(offset)


def _store(address: bytes, value: bytes, offset: int = 0) -> bytes:
    return address + value + _simd(0x0B) + _unsigned(2) + _unsigned(offset)


_plus, _minus, _times = (_operation(bytes([code])) for code in (0x6A, 0x6B, 0x6C))
_less = _operation(b"\x49")  # unsigned
_load, _splat = _access(0x00, 2), _access(0x09, 2)
_add, _sub, _mul, _div = (_operation(_simd(code)) for code in (0xE4, 0xE5, 0xE6, 0xE7))
_min, _max, _abs, _nearest = (_operation(_simd(code)) for code in (0xE8, 0xE9, 0xE0, 0x6A))
_or, _and, _to_int, _add_int = (_operation(_simd(code)) for code in (0x50, 0x4E, 0xF8, 0xAE))


def _grow(local: int, by: bytes) -> bytes:
    return _set(local, _plus(_get(local), by))


def _while(condition: bytes, body: bytes) -> bytes:
    again = condition + b"\x45" + b"\x0d\x01"  # br_if 1 when it is not so
    return b"\x02\x40" + b"\x03\x40" + again + body + b"\x0c\x00" + b"\x0b" + b"\x0b"


def _if(condition: bytes, body: bytes) -> bytes:
    return condition + b"\x04\x40" + body + b"\x0b"


def _multiply(fused: bool) -> tuple[int, int, bytes]:
    """Parameters, i32 locals, code; vector locals follow the i32 ones."""
    x, x_step, weights, bias, added, out, out_step, pixels, inputs, outputs = range(10)
    row, to, plus, left, end, weight, plus_start = range(10, 17)
    pointer = list(range(17, 17 + _PIXELS))
    total = list(range(21, 21 + 2 * _PIXELS))
    first, second, value = range(21 + 2 * _PIXELS, 24 + 2 * _PIXELS)

    def fma(a: bytes, b: bytes, c: bytes) -> bytes:
        return a + b + c + _simd(0x105) if fused else _add(c, _mul(a, b))

    def tile(count: int) -> bytes:
        targets = [_get(to) if i == 0 else _plus(_get(to), _times(_get(out_step), _number(i))) for i in range(count)]
        sources = [
            _get(plus) if i == 0 else _plus(_get(plus), _times(_get(out_step), _number(i))) for i in range(count)
        ]
        code = b"".join(
            _set(total[2 * i + half], _load(_get(bias), 16 * half)) for i in range(count) for half in (0, 1)
        )
        code += _if(
            _get(added),
            b"".join(
                _set(total[2 * i + half], _add(_get(total[2 * i + half]), _load(sources[i], 16 * half)))
                for i in range(count)
                for half in (0, 1)
            ),
        )
        code += b"".join(_set(pointer[i], _plus(_get(row), _times(_get(x_step), _number(i)))) for i in range(count))
        code += _set(weight, _get(weights))
        step = b""
        for channel in range(4):  # unrolled
            step += _set(first, _load(_get(weight), 32 * channel)) + _set(
                second, _load(_get(weight), 32 * channel + 16)
            )
            for i in range(count):
                step += _set(value, _splat(_get(pointer[i]), 4 * channel))
                for half, factor in enumerate((first, second)):
                    accumulator = total[2 * i + half]
                    step += _set(accumulator, fma(_get(value), _get(factor), _get(accumulator)))
        step += _grow(weight, _number(128)) + b"".join(_grow(pointer[i], _number(16)) for i in range(count))
        code += _while(_less(_get(weight), _get(end)), step)
        code += b"".join(
            _store(targets[i], _get(total[2 * i + half]), 16 * half) for i in range(count) for half in (0, 1)
        )
        code += _grow(row, _times(_get(x_step), _number(count)))
        code += _grow(to, _times(_get(out_step), _number(count)))
        code += _grow(plus, _times(_get(out_step), _number(count)))
        return code + _set(left, _minus(_get(left), _number(count)))

    body = _set(row, _get(x)) + _set(to, _get(out)) + _set(plus, _get(plus_start)) + _set(left, _get(pixels))
    body += _set(end, _plus(_get(weights), _times(_get(inputs), _number(32))))
    body += _while(_less(_number(_PIXELS - 1), _get(left)), tile(_PIXELS))
    body += _while(_less(_number(0), _get(left)), tile(1))
    body += _set(weights, _get(end)) + _grow(bias, _number(32)) + _grow(out, _number(32))
    body += _grow(plus_start, _number(32)) + _set(outputs, _minus(_get(outputs), _number(8)))
    code = _set(plus_start, _get(added)) + _while(_less(_number(0), _get(outputs)), body)
    return 10, 11, code


def _exponential(x: bytes, whole: int, rest: int) -> bytes:
    """e^x to 1e-7 (the Cephes library's expf), through two locals."""
    code = _set(rest, _max(_min(x, _floats(87.0)), _floats(-87.0)))
    code += _set(whole, _nearest(_mul(_get(rest), _floats(1.4426950408889634))))
    code += _set(rest, _sub(_get(rest), _mul(_get(whole), _floats(0.693359375))))
    code += _set(rest, _add(_get(rest), _mul(_get(whole), _floats(2.12194440e-4))))
    sum_ = _floats(1.9875691500e-4)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1, 1.0, 1.0):
        sum_ = _add(_mul(sum_, _get(rest)), _floats(coefficient))
    bias = _simd(0x0C) + struct.pack("<4i", *[127] * 4)
    return code + _mul(sum_, _add_int(_to_int(_get(whole)), bias) + _number(23) + _simd(0xAB))


def _activate() -> tuple[int, int, bytes]:
    x, count, kind, end = range(4)
    value, whole, rest, inverse = range(4, 8)

    def for_each(of_value: bytes) -> bytes:
        body = _set(value, _load(_get(x))) + _store(_get(x), of_value) + _grow(x, _number(16))
        return _while(_less(_get(x), _get(end)), body)

    one = _floats(1.0)
    # erf by Abramowitz and Stegun 7.1.26, good to 1.5e-7.
    size = _mul(_abs(_get(value)), _floats(0.5**0.5))
    square = _mul(_mul(_get(value), _get(value)), _floats(-0.5))
    gelu = _set(inverse, _div(one, _add(_mul(size, _floats(0.3275911)), one)))
    series = _floats(1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592, 0.0):
        series = _add(_mul(series, _get(inverse)), _floats(coefficient))
    gelu += _set(inverse, _sub(one, _mul(series, _exponential(square, whole, rest))))
    sign = _and(_get(value), _floats(-0.0))
    gelu_value = gelu + _mul(_mul(_get(value), _floats(0.5)), _add(one, _or(_get(inverse), sign)))
    negative = _sub(_floats(0.0), _get(value))
    sigmoid = _div(one, _add(one, _exponential(negative, whole, rest)))
    code = _set(end, _plus(_get(x), _times(_get(count), _number(4))))
    for name, value_of in (("relu", _max(_get(value), _floats(0.0))), ("gelu", gelu_value), ("sigmoid", sigmoid)):
        code += _if(_get(kind) + _number(ACTIVATIONS[name]) + b"\x46", for_each(value_of))
    return 3, 1, code


def _sum() -> tuple[int, int, bytes]:
    a, b, out, count, end = range(5)
    body = _store(_get(out), _add(_load(_get(a)), _load(_get(b))))
    body += b"".join(_grow(pointer, _number(16)) for pointer in (a, b, out))
    code = _set(end, _plus(_get(a), _times(_get(count), _number(4))))
    return 4, 1, code + _while(_less(_get(a), _get(end)), body)


def _section(number: int, content: bytes) -> bytes:
    return bytes([number]) + _unsigned(len(content)) + content


def assemble(fused: bool) -> bytes:
    """The module; ``fused`` multiplies and adds in one instruction of relaxed SIMD, which not every browser has."""
    functions = {"multiply": (*_multiply(fused), 11), "activate": (*_activate(), 4), "sum": (*_sum(), 0)}

    def name(text: str) -> bytes:
        return _unsigned(len(text)) + text.encode()

    types = [b"\x60" + _vector([bytes([_I32])] * parameters) + _vector([]) for parameters, *_ in functions.values()]
    bodies = []
    for _, integers, code, vectors in functions.values():
        declared = [(integers, _I32), (vectors, _V128)]
        locals_ = _vector([_unsigned(count) + bytes([kind]) for count, kind in declared if count])
        bodies.append(locals_ + code + b"\x0b")
    memory = name("env") + name("memory") + b"\x02\x00\x01"
    return b"\0asm\1\0\0\0" + b"".join(
        (
            _section(1, _vector(types)),
            _section(2, _vector([memory])),
            _section(3, _vector([_unsigned(index) for index in range(len(types))])),
            _section(7, _vector([name(text) + b"\x00" + _unsigned(index) for index, text in enumerate(functions)])),
            _section(10, _vector([_unsigned(len(body)) + body for body in bodies])),
        )
    )
