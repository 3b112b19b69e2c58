"""What the paper (Cao et al., CVPR 2023, arXiv 2212.08057) and later work report, as far as it is at hand.

A figure that is not here was not at hand; none is estimated. The paper's SSIM (0.993, 0.966) is left out: the official
release computes it with the axes of the pictures mixed up, so that nothing can be compared with it.
"""

from __future__ import annotations

SYNTHETIC = ("chair", "drums", "ficus", "hotdog", "lego", "materials", "mic", "ship")
FORWARD_FACING = ("fern", "flower", "fortress", "horns", "leaves", "orchids", "room", "trex")

PSNR = {"synthetic": 31.34, "forward-facing": 26.15, "lego": 32.18, "mic": 34.37, "fern": 24.39}
"""MobileR2L, Table 1 and of the scenes' tables what is at hand."""
TEACHER_PSNR = {"synthetic": 33.09, "forward-facing": 26.85}
"""The teacher that taught it."""
STORAGE_MB = {"MobileR2L": 8.3, "MobileNeRF, synthetic": 125.8, "MobileNeRF, forward-facing": 201.5,
              "SNeRG, synthetic": 86.8, "SNeRG, forward-facing": 337.0}  # fmt: skip
"""Table 2."""
LATENCY_MS = {"synthetic": 26.21, "forward-facing": 18.04}
"""Table 3, an iPhone 13: other devices can be compared by ratios only."""
NETWORK = {"MLP": (19.13, 19.57), "1x1 CONV": (19.16, 14.30), "+ ReLU": (26.82, 16.20), "+ GELU": (26.99, 17.00),
           "+ GELU + BN": (27.18, 17.00)}  # fmt: skip
"""Table 4: row -> dB, milliseconds on an iPhone 13."""
DESIGN = {"100 x 100": (30.65, 26.21), "50 x 50": (30.40, 13.04), "200 x 200": (None, 73.76), "teacher": (30.83, None),
          "K 16, L 10": (30.90, 31.05), "D 100": (31.37, 44.52)}  # fmt: skip
"""Table 5: row -> dB, milliseconds on an iPhone 13. Of its row without super-resolution the paper says it does not run;
its better teacher is MipNeRF."""
PRUNING = {"30 % pruned": (-1.7, -19.0), "50 % pruned": (-2.8, -23.0)}
"""ENeLF (Peng 2024, arXiv 2406.00598), the same network: dB and per cent of the latency lost."""
