"""WebAssembly as bytes: what the page's kernels are written in.

Instructions are bytes in WebAssembly's own (postfix) order: a function here takes the code of its operands and returns
theirs followed by its own. Vectors are four float32 or int32.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby

I32, V128 = 0x7F, 0x7B


def unsigned(value: int) -> bytes:
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
    return unsigned(len(items)) + b"".join(items)


def simd(code: int) -> bytes:
    return b"\xfd" + unsigned(code)


def operation(code: bytes):
    return lambda *operands: b"".join(operands) + code


def get(local: int) -> bytes:
    return b"\x20" + unsigned(local)


def put(local: int, value: bytes) -> bytes:
    return value + b"\x21" + unsigned(local)


def number(value: int) -> bytes:
    return b"\x41" + _signed(value)


def floats(value: float) -> bytes:
    """A vector of four times the same."""
    return simd(0x0C) + struct.pack("<4f", *[value] * 4)


def integers(*values: int) -> bytes:
    """A vector of one value, four times, or of four."""
    return simd(0x0C) + struct.pack("<4I", *(values * 4)[:4])


def _access(code: int, align: int):
    return lambda address, offset=0: address + simd(code) + unsigned(align) + unsigned(offset)


def store(address: bytes, value: bytes, offset: int = 0) -> bytes:
    return address + value + simd(0x0B) + unsigned(2) + unsigned(offset)


def store_int(address: bytes, value: bytes, offset: int = 0) -> bytes:
    return address + value + b"\x36" + unsigned(2) + unsigned(offset)


def load_int(address: bytes, offset: int = 0) -> bytes:
    return address + b"\x28" + unsigned(2) + unsigned(offset)


def load_byte(address: bytes, offset: int = 0) -> bytes:
    return address + b"\x2d" + unsigned(0) + unsigned(offset)


plus, minus, times = (operation(bytes([code])) for code in (0x6A, 0x6B, 0x6C))
less, equal = operation(b"\x49"), operation(b"\x46")  # unsigned
int_or = operation(b"\x72")
load, load_splat, _load_first = _access(0x00, 2), _access(0x09, 2), _access(0x5C, 2)
add, sub, mul, div = (operation(simd(code)) for code in (0xE4, 0xE5, 0xE6, 0xE7))
minimum, maximum, magnitude, nearest = (operation(simd(code)) for code in (0xE8, 0xE9, 0xE0, 0x6A))
bits_or, bits_and, greater, any_true = (operation(simd(code)) for code in (0x50, 0x4E, 0x44, 0x53))
to_int, to_float, add_int, sub_int, mul_int = (operation(simd(code)) for code in (0xF8, 0xFA, 0xAE, 0xB1, 0xB5))


def shift_left(value: bytes, bits: int) -> bytes:
    return value + number(bits) + simd(0xAB)


def shift_right(value: bytes, bits: int) -> bytes:
    return value + number(bits) + simd(0xAC)  # keeps the sign


def lane_of(value: bytes, lane: int) -> bytes:
    """One of a vector's integers."""
    return value + simd(0x1B) + bytes([lane])


def splat(local: int, lane: int) -> bytes:
    """A vector of four times one of another's."""
    return get(local) * 2 + simd(0x0D) + bytes([4 * lane, 4 * lane + 1, 4 * lane + 2, 4 * lane + 3] * 4)


def gather(addresses: list[bytes], offset: int = 0) -> bytes:
    """A vector of the numbers at four addresses."""
    code = b"".join(reversed(addresses[1:])) + _load_first(addresses[0], offset)
    return code + b"".join(simd(0x56) + unsigned(2) + unsigned(offset) + bytes([lane]) for lane in (1, 2, 3))


def grow(local: int, by: bytes) -> bytes:
    return put(local, plus(get(local), by))


def while_(condition: bytes, body: bytes) -> bytes:
    again = condition + b"\x45" + b"\x0d\x01"  # br_if 1 when it is not so
    return b"\x02\x40" + b"\x03\x40" + again + body + b"\x0c\x00" + b"\x0b" + b"\x0b"


def if_(condition: bytes, body: bytes, otherwise: bytes = b"") -> bytes:
    return condition + b"\x04\x40" + body + (b"\x05" + otherwise if otherwise else b"") + b"\x0b"


def fma(fused: bool):
    """a * b + c, in one instruction of relaxed SIMD or in two."""
    return operation(simd(0x105)) if fused else lambda a, b, c: add(c, mul(a, b))


def exponential(x: bytes, whole: int, rest: int) -> bytes:
    """e^x to 1e-7 (the Cephes library's expf), through two locals."""
    code = put(rest, maximum(minimum(x, floats(87.0)), floats(-87.0)))
    code += put(whole, nearest(mul(get(rest), floats(1.4426950408889634))))
    code += put(rest, sub(get(rest), mul(get(whole), floats(0.693359375))))
    code += put(rest, add(get(rest), mul(get(whole), floats(2.12194440e-4))))
    sum_ = floats(1.9875691500e-4)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1, 1.0, 1.0):
        sum_ = add(mul(sum_, get(rest)), floats(coefficient))
    return code + mul(sum_, shift_left(add_int(to_int(get(whole)), integers(127)), 23))


def logarithm(x: bytes, whole: int, rest: int, square: int) -> bytes:
    """log x of positive numbers to 1e-7 (the Cephes library's logf), through three locals."""
    # x = 2^whole * (1 + rest), 1 + rest between the roots of 1/2 and of 2.
    code = put(rest, sub_int(x, integers(0x3F3504F3)))
    code += put(whole, to_float(shift_right(get(rest), 23)))
    code += put(rest, add_int(bits_and(get(rest), integers(0x007FFFFF)), integers(0x3F3504F3)))
    code += put(rest, sub(get(rest), floats(1.0)))
    code += put(square, mul(get(rest), get(rest)))
    sum_ = floats(7.0376836292e-2)
    for coefficient in (
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    ):
        sum_ = add(mul(sum_, get(rest)), floats(coefficient))
    code += put(square, sub(mul(mul(sum_, get(rest)), get(square)), mul(get(square), floats(0.5))))
    small = add(get(square), mul(get(whole), floats(-2.12194440e-4)))
    return code + add(add(small, get(rest)), mul(get(whole), floats(0.693359375)))


@dataclass
class Function:
    """Parameters, all of them i32, and locals by number; code that leaves ``results`` (0 or 1) i32."""

    parameters: int
    results: int = 0
    kinds: list[int] = field(default_factory=list)
    code: bytes = b""

    def integer(self) -> int:
        """A new local."""
        return self._local(I32)

    def vector(self) -> int:
        """A new local."""
        return self._local(V128)

    def integers(self, count: int) -> list[int]:
        return [self.integer() for _ in range(count)]

    def vectors(self, count: int) -> list[int]:
        return [self.vector() for _ in range(count)]

    def _local(self, kind: int) -> int:
        self.kinds.append(kind)
        return self.parameters + len(self.kinds) - 1


def _section(index: int, content: bytes) -> bytes:
    return bytes([index]) + unsigned(len(content)) + content


def module(functions: Mapping[str, Function]) -> bytes:
    """A module that exports functions and imports its memory as ``env.memory``."""

    def name(text: str) -> bytes:
        return unsigned(len(text)) + text.encode()

    types = [
        b"\x60" + _vector([bytes([I32])] * function.parameters) + _vector([bytes([I32])] * function.results)
        for function in functions.values()
    ]
    bodies = []
    for function in functions.values():
        locals_ = _vector([unsigned(len([*same])) + bytes([kind]) for kind, same in groupby(function.kinds)])
        bodies.append(locals_ + function.code + b"\x0b")
    memory = name("env") + name("memory") + b"\x02\x00\x01"
    return b"\0asm\1\0\0\0" + b"".join(
        (
            _section(1, _vector(types)),
            _section(2, _vector([memory])),
            _section(3, _vector([unsigned(index) for index in range(len(types))])),
            _section(7, _vector([name(text) + b"\x00" + unsigned(index) for index, text in enumerate(functions)])),
            _section(10, _vector([unsigned(len(body)) + body for body in bodies])),
        )
    )
