"""What a machine is: device, versions, and what its compiler, its memory and its matrix products reach.

python scripts/gpu_day_environment.py --device cuda --json FILE
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from results_file import write_json

OPTIONAL = ("tinycudann", "gsplat", "coremltools", "onnxruntime", "triton")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    from benchmark_training import peak_flops

    from mobiler2l_ns.devices import compiles, device_name, multiplies_bfloat16, versions

    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no NVIDIA GPU here: give --device cpu")
    found: dict[str, Any] = {"device": device_name(device), "versions": versions()}
    found["packages"] = {name: find_spec(name) is not None for name in OPTIONAL}
    found["bfloat16"], found["compiles"] = multiplies_bfloat16(device), device == "cuda" and compiles(device)
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["memory_bytes"], found["multiprocessors"] = properties.total_memory, properties.multi_processor_count
        if smi := shutil.which("nvidia-smi"):
            found["nvidia_smi"] = subprocess.run([smi], capture_output=True, text=True).stdout.splitlines()
        kinds = (torch.float32, torch.bfloat16)
        found["peak_tflops"] = {str(kind).removeprefix("torch."): peak_flops(device, kind) / 1e12 for kind in kinds}
    write_json(arguments.json, found)
    for name, value in found.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
