"""What phones' processors are known to run, operation by operation: data, with its sources.

None of these is a promise of the vendor's: Apple publishes no list for the Neural Engine, and NNAPI drivers differ from
phone to phone. An operation that is on neither of a processor's lists is reported as not known.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Processor:
    """One processor, and what it runs of the operations that a student's graph can hold."""

    name: str
    formats: frozenset[str]
    """Formats whose packages can run there."""
    runs: frozenset[str]
    """Operations it runs, by the format's own names."""
    falls_back: frozenset[str]
    """Operations it leaves to a slower processor."""
    half_only: bool
    """Whether it computes in half precision only."""
    source: str
    """Where this is known from."""


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


PROCESSORS = (
    Processor(
        "Neural Engine",
        _names("coreml"),
        _names(
            "conv conv_transpose linear relu gelu sigmoid tanh silu add sub mul maximum minimum clip concat "
            "split reshape transpose slice_by_index slice_by_size squeeze expand_dims reduce_sum reduce_max "
            "matmul real_div sqrt square constexpr_affine_dequantize constexpr_blockwise_shift_scale "
            "constexpr_lut_to_dense"
        ),
        _names("sin cos gather gather_nd inverse tile"),
        True,
        "https://coremltools.readme.io/docs/typed-execution (half precision only); "
        "https://github.com/hollance/neural-engine (layers, by experiment)",
    ),
    Processor(
        "Core ML GPU",
        _names("coreml"),
        _names(
            "conv conv_transpose linear relu gelu sigmoid tanh silu add sub mul maximum minimum clip concat "
            "split reshape transpose slice_by_index slice_by_size squeeze expand_dims reduce_sum reduce_max "
            "matmul real_div sqrt square sin cos cast tile abs pow stack identity "
            "constexpr_affine_dequantize constexpr_blockwise_shift_scale constexpr_lut_to_dense"
        ),
        frozenset(),
        False,
        "https://coremltools.readme.io/docs/typed-execution (float32 and float16)",
    ),
    Processor(
        "NNAPI-class NPU",
        _names("litert"),
        _names(
            "ABS ADD BATCH_MATMUL CONCATENATION CONV_2D DEQUANTIZE DIV EXPAND_DIMS FULLY_CONNECTED LOGISTIC "
            "MAXIMUM MINIMUM MUL NEG PAD PADV2 POW REDUCE_MAX SUM RELU RESHAPE RSQRT SIN SQRT SQUEEZE "
            "STRIDED_SLICE SUB TANH TILE TRANSPOSE TRANSPOSE_CONV CAST FILL"
        ),
        _names("COS GELU SLICE SPLIT SPLIT_V PACK UNPACK"),
        False,
        "https://arm-software.github.io/armnn/23.08/supportlibrary.html (an NNAPI driver's own list)",
    ),
    Processor(
        "NNAPI-class NPU",
        _names("onnx"),
        _names(
            "Abs Add MatMul Concat Conv DequantizeLinear Div Gemm Sigmoid Max Min Mul Neg Pad Pow ReduceMax "
            "ReduceSum Relu Reshape Sin Sqrt Squeeze Unsqueeze Sub Tanh Tile Transpose ConvTranspose Cast"
        ),
        _names("Cos Erf Slice Split"),
        False,
        "https://arm-software.github.io/armnn/23.08/supportlibrary.html (an NNAPI driver's own list)",
    ),
    Processor(
        "ncnn's Vulkan GPU",
        _names("ncnn"),
        _names(
            "AbsVal BinaryOp Clip Concat Convolution Crop Deconvolution GELU Gemm InnerProduct MatMul MemoryData "
            "Permute ReLU Reduction Reshape Sigmoid Slice TanH Tile UnaryOp"
        ),
        _names("ExpandDims Squeeze"),
        False,
        "https://github.com/Tencent/ncnn/tree/master/src/layer/vulkan (a file for each layer that has a shader)",
    ),
    Processor(
        "SnapML on the iPhone's NPU",
        _names("snapml"),
        _names("Abs Add BatchNormalization Concat Conv ConvTranspose GeluSnap Mul Relu Sigmoid"),
        _names("Cos Sin Constant Div MatMul Erf"),
        False,
        "https://developers.snap.com/lens-studio/features/snap-ml/compatibility",
    ),
)
"""Every processor that is looked at."""
