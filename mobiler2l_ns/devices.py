"""What a device can do, what it is called, and which versions run on it."""

from __future__ import annotations

import functools
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.version
from nerfstudio.utils.rich_utils import CONSOLE

PACKAGES = ("nerfstudio", "torch", "torchvision", "numpy", "nerfacc", "gsplat", "viser")


def versions() -> dict[str, str]:
    """Name -> version of this package, Python, the system, and the libraries that results depend on."""
    from mobiler2l_ns import __version__

    found = {"mobiler2l-ns": __version__, "Python": platform.python_version(), "system": platform.platform(terse=True)}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["torch"] = torch.__version__  # with the build, which its package leaves out
    if torch.version.cuda is not None and torch.cuda.is_available():
        found["CUDA"] = torch.version.cuda
    return found


def device_name(device: torch.device | str) -> str:
    """The GPU's name, or the processor's with the number of threads that torch uses."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.is_file():
        lines = described.read_text(encoding="utf8", errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {torch.get_num_threads()} threads"


def peak_memory(device: torch.device | str) -> int | None:
    """Most bytes in use so far: tensors on the GPU, or of the whole process; None where the system does not say."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@functools.cache
def multiplies_bfloat16(device: str) -> bool:
    """Whether a type of device has instructions that multiply bfloat16: NVIDIA's from Ampere on, CPUs with AVX-512 BF16
    or AMX."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # older versions of torch cannot tell
    return device == "cpu" and known is not None and known()


@functools.cache
def compiles(device: str) -> bool:
    """Whether torch.compile gets to its end on a type of device: on GPUs its compiler wants a C compiler as well."""
    try:
        torch.compile(lambda x: x.sin() + 1.0)(torch.zeros(8, device=device))
    except Exception as error:  # whatever a compiler that is missing or unfit ends in
        reason = str(error).strip().partition("\n")[0]
        CONSOLE.print(f"[yellow]The student is trained without torch.compile, which fails here: {reason}")
        return False
    return True
