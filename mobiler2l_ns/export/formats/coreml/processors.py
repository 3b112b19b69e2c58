"""What an iPhone's processors are known to run of a Core ML package."""

from __future__ import annotations

from mobiler2l_ns.export.processor import Processor, names

NEURAL_ENGINE = Processor(
    "Neural Engine",
    runs=names(
        "conv conv_transpose linear relu gelu sigmoid tanh silu add sub mul maximum minimum clip concat "
        "split reshape transpose slice_by_index slice_by_size squeeze expand_dims reduce_sum reduce_max "
        "matmul real_div sqrt square constexpr_affine_dequantize constexpr_blockwise_shift_scale "
        "constexpr_lut_to_dense"
    ),
    falls_back=names("sin cos cumsum exp floor gather gather_nd inverse log resample tile"),
    half_only=True,
    pads_to=32,
    palette_strides=frozenset((1, 2)),
    source="https://coremltools.readme.io/docs/typed-execution (half precision only); "
    "https://github.com/hollance/neural-engine (layers, by experiment); "
    "https://machinelearning.apple.com/research/neural-engine-transformers (the last axis is aligned to 64 bytes)",
)
GPU = Processor(
    "Core ML GPU",
    runs=names(
        "conv conv_transpose linear relu gelu sigmoid tanh silu add sub mul maximum minimum clip concat "
        "split reshape transpose slice_by_index slice_by_size squeeze expand_dims reduce_sum reduce_max "
        "matmul real_div sqrt square sin cos cast tile abs pow stack identity "
        "constexpr_affine_dequantize constexpr_blockwise_shift_scale constexpr_lut_to_dense"
    ),
    falls_back=frozenset(),
    source="https://coremltools.readme.io/docs/typed-execution (float32 and float16)",
)
