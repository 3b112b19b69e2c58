"""Run a saved Core ML package without a Mac: its operations, one by one, in torch.

`MLModel.predict` exists on macOS only, so on Linux a conversion would otherwise go out untested. This reads the
package *from disk* with coremltools' own loader (weights, casts and compressed constants included) and evaluates its
main function on the CPU, which shows a wrong weight, a lost layer, a mis-ordered axis or an encoding that was computed
in half precision.

Limits. It follows the documented meaning of each operation, not Apple's kernels. Values of fp16 variables are rounded
to fp16 after every operation while the arithmetic inside one is fp32, whereas a phone may accumulate in fp16 or use
tables for the activations. Nothing is said about speed, nor about which processor an operation would run on. Control
flow, state and flexible shapes are not covered; an operation that is not in the table below is an error that names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mobiler2l_ns.export.formats.coreml.quiet import quiet


class MILError(RuntimeError):
    """The package cannot be evaluated."""


class MILProgram:
    """A function of a saved `.mlpackage`.

    Example:
        program = MILProgram.load(Path("lego.mlpackage"))
        image = program.run({"camera_to_world": pose, "intrinsics": k})["image"]
    """

    def __init__(self, function: Any, image_outputs: frozenset[str]) -> None:
        self.image_outputs = image_outputs
        self._function = function
        self.operations = [op for op in function.operations if op.op_type != "const"]

    @classmethod
    def load(cls, path: Path, function: str = "main") -> MILProgram:
        """Read a function of a `.mlpackage` folder that holds an ML program with fixed input shapes."""
        with quiet():
            from coremltools.converters.mil.frontend.milproto.load import load
            from coremltools.models.utils import load_spec

        spec: Any = load_spec(str(path))
        weights = Path(path) / "Data" / "com.apple.CoreML" / "weights"
        program = load(spec, spec.specificationVersion, str(weights))
        described = next((f for f in spec.description.functions if f.name == function), spec.description)
        images = frozenset(o.name for o in described.output if o.type.WhichOneof("Type") == "imageType")
        return cls(program.functions[function], images)

    def ops(self) -> Counter[str]:
        """How often each operation occurs, constants aside."""
        return Counter(op.op_type for op in self.operations)

    def dtypes(self, op_type: str) -> set[str]:
        """Types of the values that operations of this name give, such as {"fp16"}."""
        return {dtype_of(v) for op in self.operations if op.op_type == op_type for v in op.outputs}

    @torch.no_grad()
    def run(self, inputs: Mapping[str, NDArray[Any] | Tensor]) -> dict[str, NDArray[Any]]:
        """Evaluate.

        Args:
            inputs: one array per input, of its shape.

        Returns:
            Name -> array of each output. An image output is (1, 3, H, W) float32, 0..255 and not yet rounded to bytes.
        """
        if inputs.keys() != self._function.inputs.keys():
            raise MILError(f"the program takes {sorted(self._function.inputs)}, got {sorted(inputs)}")
        values: dict[Any, Any] = {}
        for name, var in self._function.inputs.items():
            tensor = torch.as_tensor(inputs[name])
            if tuple(tensor.shape) != tuple(var.shape):
                raise MILError(f"input {name} has shape {tuple(var.shape)}, got {tuple(tensor.shape)}")
            values[var] = _store(tensor, var)

        # Full-size activations take 40 MB each: forget every value after its last use.
        last_use = {v: i for i, op in enumerate(self.operations) for v in _operands(op)}
        kept = set(self._function.outputs)
        for i, op in enumerate(self.operations):
            for var, value in zip(op.outputs, _evaluate(op, values), strict=True):
                values[var] = _store(value, var)
            for var in _operands(op):
                if last_use[var] == i and var not in kept:
                    values.pop(var, None)
        return {v.name: _value(v, values).numpy() for v in self._function.outputs}


def dtype_of(var: Any) -> str:
    """Type of a program's value, such as fp16."""
    from coremltools.converters.mil.mil.types import builtin_to_string

    return builtin_to_string(var.dtype)


def _operands(op: Any) -> set[Any]:
    """The variables an operation reads."""
    groups = (v if isinstance(v, (list, tuple)) else (v,) for v in op.inputs.values())
    return {v for group in groups for v in group if v is not None}


def _store(value: Tensor, var: Any) -> Tensor:
    """A value as its variable can hold it: rounded to fp16 where that is the type, kept in fp32 for the arithmetic."""
    dtype = dtype_of(var)
    if dtype == "fp16":
        return value.half().float()
    return value.to({"fp32": torch.float32, "bool": torch.bool}.get(dtype, torch.int64))


def _value(var: Any, values: Mapping[Any, Any]) -> Any:
    """What a variable holds: a tensor, or for a constant string, flag or number the thing itself."""
    if var is None:
        return None
    if var in values:
        return values[var]
    constant = var.val
    if isinstance(constant, np.ndarray) and constant.dtype.kind in "biuf":
        return _store(torch.tensor(constant.astype(np.float32) if constant.dtype == np.float16 else constant), var)
    return constant.item() if isinstance(constant, np.generic) else constant


def _evaluate(op: Any, values: Mapping[Any, Any]) -> list[Tensor]:
    if op.op_type.startswith("constexpr_"):
        # Compressed weights: coremltools' own decompression is the reference there is.
        return [torch.tensor(np.asarray(op.materialized_val_inference(), dtype=np.float32))]
    compute = _OPS.get(op.op_type)
    if compute is None:
        raise MILError(f"operation {op.op_type} ({op.name}) is not known to this evaluator")
    arguments = SimpleNamespace(**dict.fromkeys(op.input_spec.input_types))  # None for what is left out
    for name, var in op.inputs.items():
        many = isinstance(var, (list, tuple))
        setattr(arguments, name, [_value(v, values) for v in var] if many else _value(var, values))
    result = compute(arguments)
    return result if isinstance(result, list) else [result]


def _ints(value: Any) -> list[int]:
    return [int(v) for v in value]


def _padding(a: Any) -> list[tuple[int, int]]:
    """Padding (begin, end) of each spatial dimension of a convolution."""
    if a.pad_type == "valid":
        return [(0, 0)] * (a.x.dim() - 2)
    if a.pad_type == "custom":
        return list(zip(_ints(a.pad)[::2], _ints(a.pad)[1::2], strict=True))
    raise MILError(f"a convolution with pad_type {a.pad_type!r} is not known to this evaluator")


def _convolve(a: Any, x: Tensor, transposed: bool) -> Tensor:
    """A convolution, or a transposed one, of any spatial rank and without padding."""
    none = [0] * (x.dim() - 2)
    steps, dilations = _ints(a.strides), _ints(a.dilations)
    return torch.convolution(x, a.weight, a.bias, steps, none, dilations, transposed, none, int(a.groups))


def _conv(a: Any) -> Tensor:
    return _convolve(a, F.pad(a.x, [p for pair in reversed(_padding(a)) for p in pair]), False)


def _conv_transpose(a: Any) -> Tensor:
    result = _convolve(a, a.x, True)
    for i, (begin, end) in enumerate(_padding(a), start=2):
        result = result.narrow(i, begin, result.shape[i] - begin - end)
    if a.output_shape is not None and _ints(a.output_shape) != list(result.shape):
        raise MILError(f"conv_transpose: output_shape {_ints(a.output_shape)} is not its natural {list(result.shape)}")
    return result


def _gelu(a: Any) -> Tensor:
    if a.mode == "SIGMOID_APPROXIMATION":
        return a.x * torch.sigmoid(1.702 * a.x)
    return F.gelu(a.x, approximate="tanh" if a.mode == "TANH_APPROXIMATION" else "none")


def _reshape(a: Any) -> Tensor:
    return a.x.reshape([a.x.shape[i] if n == 0 else n for i, n in enumerate(_ints(a.shape))])  # 0 keeps a dimension


def _split(a: Any) -> list[Tensor]:
    sizes = _ints(a.split_sizes) if a.split_sizes is not None else a.x.shape[int(a.axis)] // int(a.num_splits)
    return list(a.x.split(sizes, int(a.axis)))


def _slice_by_index(a: Any) -> Tensor:
    n = a.x.dim()
    stride = _ints(a.stride) if a.stride is not None else [1] * n
    flags = [[False] * n if m is None else [bool(f) for f in m] for m in (a.begin_mask, a.end_mask, a.squeeze_mask)]
    index: list[Any] = []
    for i, (begin, end) in enumerate(zip(_ints(a.begin), _ints(a.end), strict=True)):
        open_begin, open_end, squeeze = (f[i] for f in flags)
        index.append(begin if squeeze else slice(None if open_begin else begin, None if open_end else end, stride[i]))
    return torch.from_numpy(a.x.numpy()[tuple(index)].copy())  # numpy: torch has no negative strides


def _slice_by_size(a: Any) -> Tensor:
    for i, (begin, size) in enumerate(zip(_ints(a.begin), _ints(a.size), strict=True)):
        a.x = a.x.narrow(i, begin, a.x.shape[i] - begin if size == -1 else size)
    return a.x


def _concat(a: Any) -> Tensor:
    if a.interleave:
        raise MILError("concat with interleave is not known to this evaluator")
    return torch.cat(a.values, int(a.axis))


def _matmul(a: Any) -> Tensor:
    return torch.matmul(a.x.mT if a.transpose_x else a.x, a.y.mT if a.transpose_y else a.y)


def _resample(a: Any) -> Tensor:
    if a.coordinates_mode != "normalized_minus_one_to_one" or a.padding_mode != "border":
        raise MILError(f"resample of {a.coordinates_mode} coordinates with padding {a.padding_mode} is not known here")
    return F.grid_sample(a.x, a.coordinates, a.sampling_mode, "border", bool(a.align_corners))


def _upsample_nearest(a: Any) -> Tensor:
    return F.interpolate(a.x, scale_factor=(float(a.scale_factor_height), float(a.scale_factor_width)), mode="nearest")


def _cumsum(a: Any) -> Tensor:
    if a.exclusive or a.reverse:
        raise MILError("a cumsum that is exclusive or reversed is not known to this evaluator")
    return a.x.cumsum(int(a.axis))


def _axes(a: Any) -> tuple[int, ...]:
    return tuple(range(a.x.dim()) if a.axes is None else _ints(a.axes))


_OPS: dict[str, Callable[[Any], Tensor | list[Tensor]]] = {
    "abs": lambda a: a.x.abs(),
    "add": lambda a: a.x + a.y,
    "batch_norm": lambda a: F.batch_norm(a.x, a.mean, a.variance, a.gamma, a.beta, False, 0.0, float(a.epsilon)),
    "cast": lambda a: a.x,  # the variable's type does it
    "clip": lambda a: a.x.clamp(a.alpha, a.beta),
    "concat": _concat,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "cos": lambda a: a.x.cos(),
    "cumsum": _cumsum,
    "exp": lambda a: a.x.exp(),
    "expand_dims": lambda a: torch.from_numpy(np.expand_dims(a.x.numpy(), _axes(a))),
    "floor": lambda a: a.x.floor(),
    "fill_like": lambda a: torch.full(a.ref_tensor.shape, float(a.value)),
    "gelu": _gelu,
    "identity": lambda a: a.x,
    "inverse": lambda a: 1.0 / (a.x + a.epsilon),
    "linear": lambda a: F.linear(a.x, a.weight, a.bias),
    "log": lambda a: (a.x + float(a.epsilon)).log(),
    "matmul": _matmul,
    "maximum": lambda a: torch.maximum(torch.as_tensor(a.x), torch.as_tensor(a.y)),
    "minimum": lambda a: torch.minimum(torch.as_tensor(a.x), torch.as_tensor(a.y)),
    "mul": lambda a: a.x * a.y,
    "pow": lambda a: torch.pow(a.x, a.y),
    "real_div": lambda a: a.x / a.y,
    "reduce_max": lambda a: a.x.amax(_axes(a), a.keep_dims),
    "reduce_sum": lambda a: a.x.sum(_axes(a), a.keep_dims),
    "relu": lambda a: a.x.relu(),
    "resample": _resample,
    "reshape": _reshape,
    "sigmoid": lambda a: a.x.sigmoid(),
    "silu": lambda a: F.silu(a.x),
    "sin": lambda a: a.x.sin(),
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "split": _split,
    "sqrt": lambda a: a.x.sqrt(),
    "square": lambda a: a.x.square(),
    "squeeze": lambda a: a.x.squeeze(_axes(a)),
    "stack": lambda a: torch.stack(a.values, int(a.axis)),
    "sub": lambda a: a.x - a.y,
    "tanh": lambda a: a.x.tanh(),
    "tile": lambda a: a.x.repeat(_ints(a.reps)),
    "transpose": lambda a: a.x.permute(_ints(a.perm)),
    "upsample_nearest_neighbor": _upsample_nearest,
}
