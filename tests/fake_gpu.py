"""A GPU that is not there: its tensors have shape, type and device and no values, and need neither driver nor card.

Under ``FakeGpu`` whatever has to do with the GPU is a fake tensor (``torch._subclasses.fake_tensor``), and what stays
on the CPU is computed as ever. An operation on tensors of both devices raises, as it does on a card. So does whatever
asks the GPU for a value (``float``, ``bool``, ``tolist``, an index made of a mask): on a card the host would wait there
until all queued work is done.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from mobiler2l_ns import devices

ATEN: Any = torch.ops.aten
GPU = torch.device("cuda:0")
"""With its index: without one torch asks the driver for the current card before any mode is asked."""
Stall = (DataDependentOutputException, DynamicOutputShapeException)
"""What is raised where the host would wait for the GPU."""
OLD = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 8)
backward_passes = pytest.mark.skipif(not OLD, reason="from torch 2.8 on a backward pass asks the card for its streams")
"""For tests with a backward pass."""


class FakeGpu(FakeTensorMode):
    """While it is on, tensors on ``GPU`` are fake and those on the CPU are not, unless they come from there."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._inside = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._inside:  # what an operation is made of
            return super().__torch_dispatch__(func, types, args, kwargs)
        if not any(map(_is_of_gpu, tree_leaves((args, kwargs)))):
            return func(*args, **kwargs)
        args, kwargs = tree_map(self._fake, (args, kwargs))
        self._inside = True
        try:
            return super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self._inside = False

    def _fake(self, value: Any) -> Any:
        real = isinstance(value, Tensor) and not isinstance(value, FakeTensor)
        return self.from_tensor(value) if real else value


def _is_of_gpu(value: Any) -> bool:
    return isinstance(value, FakeTensor) or (isinstance(value, torch.device) and value.type == "cuda")


class _Indexing(TorchFunctionMode):
    """``x[...]`` of fake tensors by operations of their own: torch's asks the driver for the card first."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__ and isinstance(args[0], FakeTensor):
            part, chosen = _sliced(*args)
            return ATEN.index.Tensor(part, chosen) if chosen else part
        if func is Tensor.__setitem__ and isinstance(args[0], FakeTensor):
            part, chosen = _sliced(*args[:2])
            value = torch.as_tensor(args[2])
            return ATEN.index_put_(part, chosen, value) if chosen else part.copy_(value)
        return func(*args, **(kwargs or {}))


def _sliced(x: Tensor, index: Any) -> tuple[Tensor, list[Tensor | None]]:
    """What an index's numbers, slices, ``None`` and ``...`` leave of ``x``, and the tensors in it by dimension."""
    parts = list(index) if isinstance(index, tuple) else [index]
    parts = [torch.tensor(part) if isinstance(part, list) else part for part in parts]
    taken = sum(_dimensions(part) for part in parts)
    chosen: dict[int, Tensor] = {}
    dim = 0
    for part in parts:
        if part is Ellipsis:
            dim += x.dim() - dim - (taken - sum(_dimensions(p) for p in parts[: parts.index(Ellipsis)]))
        elif part is None:
            x, dim = x.unsqueeze(dim), dim + 1
        elif isinstance(part, slice):
            begin, end, step = part.indices(x.shape[dim])
            x, dim = ATEN.slice.Tensor(x, dim, begin, end, step), dim + 1
        elif isinstance(part, Tensor):
            chosen[dim], dim = part, dim + _dimensions(part)
        else:
            x = x.select(dim, part)
    return x, [chosen.get(place) for place in range(max(chosen) + 1)] if chosen else []


def _dimensions(part: Any) -> int:
    """As many of a tensor's as a part of an index is for."""
    if isinstance(part, Tensor) and part.dtype == torch.bool:
        return part.dim()
    return 0 if part is None or part is Ellipsis else 1


@functools.cache
def _no_card() -> ctypes.CDLL:
    """``no_card.cpp``, compiled: torch's autograd asks a card's driver for its stream at every parameter."""
    torch_folder, folder = Path(torch.__path__[0]), Path(tempfile.mkdtemp())
    library, abi = folder / "no_card.so", int(torch.compiled_with_cxx11_abi())
    source = Path(__file__).parent / "device" / "no_card.cpp"
    flags = ["-std=c++17", "-shared", "-fPIC", f"-D_GLIBCXX_USE_CXX11_ABI={abi}", f"-I{torch_folder / 'include'}"]
    links = [f"-L{torch_folder / 'lib'}", "-lc10"]
    subprocess.run(["g++", *flags, str(source), *links, "-o", str(library)], check=True, capture_output=True)
    loaded = ctypes.CDLL(str(library))
    shutil.rmtree(folder)
    if OLD:
        # Autograd goes by the streams of one kind of card, and if there is such a backend by its, of which there are
        # none. Newer versions of torch insist on them, also on a card that is there.
        torch.utils.rename_privateuse1_backend("nothing")  # pyright: ignore[reportPrivateImportUsage]
    loaded.replace_guard.restype, loaded.replace_guard.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    return loaded


@contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """Within it the mode is on, modules move there by ``.to(GPU)``, and torch is told of a card that has bfloat16."""
    generator, overwrites = torch.Generator, torch.__future__.get_overwrite_module_params_on_conversion()
    told = {
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
        "torch.cuda.is_bf16_supported": lambda *_: True,
        "torch.cuda.get_device_capability": lambda *_: (9, 0),
        "torch.Tensor.pin_memory": lambda values, *_: values,
        "torch.Generator": lambda *_: generator(),
    }
    devices.multiplies_bfloat16.cache_clear()
    guard = _no_card().replace_guard(None)
    # Else a parameter keeps its tensor, whose data cannot become a fake one's.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with ExitStack() as stack:
            for name, value in told.items():
                stack.enter_context(patch(name, value))
            # cudnn asks for the card's properties; threads of autograd's are one a card.
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.enter_context(torch.autograd.set_multithreading_enabled(False))
            stack.enter_context(_Indexing())
            yield stack.enter_context(FakeGpu())
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
        _no_card().replace_guard(guard)
        devices.multiplies_bfloat16.cache_clear()
