"""What gpu_day.sh wants beside torch and CUDA, and the folder of wheels that is carried along.

    python scripts/gpu_day_wheels.py FOLDER                          # 24 MB, for Python 3.12 on Linux, x86-64
    python scripts/gpu_day_wheels.py FOLDER --python 3.11 --more pytest pluggy iniconfig

The day says in one line what a machine lacks; ``--more`` carries that along too. Packages come without what they need
themselves, so that torch and numpy stay those of the machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

ON_THE_MACHINE = {
    "torch": "torch",
    "torchvision": "torchvision",
    "torchmetrics": "torchmetrics",
    "numpy": "numpy",
    "scipy": "scipy",
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "matplotlib": "matplotlib",
    "imageio": "imageio",
    "jaxtyping": "jaxtyping",
    "tensorboard": "tensorboard",
    "rich": "rich",
    "yaml": "pyyaml",
    "jinja2": "jinja2",
    "tqdm": "tqdm",
    "requests": "requests",
    "filelock": "filelock",
}
"""Module -> package: what all parts import, and what stands on a machine with torch as a rule."""
CARRIED = {
    "nerfstudio": "nerfstudio==1.1.5",
    "viser": "viser==0.2.7",
    "tyro": "tyro==1.0.17",
    "typeguard": "typeguard==4.6.0",
    "docstring_parser": "docstring_parser==0.18.0",
    "nerfacc": "nerfacc==0.5.2",
    "gsplat": "gsplat==1.4.0",
    "tensorly": "tensorly==0.10.0",
    "rawpy": "rawpy==0.28.0",
    "fpsample": "fpsample==0.3.3",  # the last with wheels
    "mediapy": "mediapy==1.2.7",
    "pytorch_msssim": "pytorch-msssim==1.0.0",
    "pyquaternion": "pyquaternion==0.9.9",
    "appdirs": "appdirs==1.4.4",
    "msgspec": "msgspec==0.22.0",
    "splines": "splines==0.3.3",
    "websockets": "websockets==17.4",
    "pathos": "pathos==0.3.5",
    "multiprocess": "multiprocess==0.70.19",
    "dill": "dill==0.4.1",
    "ppft": "ppft==1.7.8",
    "pox": "pox==0.3.7",
}
"""Module -> package of what a machine with torch does not have."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def missing(modules: Iterable[str]) -> list[str]:
    """Packages, sorted, whose modules are not installed here."""
    packages = {**ON_THE_MACHINE, **CARRIED}
    return sorted(packages.get(name, name) for name in modules if find_spec(name) is None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="version of the machine's python3")
    parser.add_argument("--more", nargs="+", default=[], metavar="PACKAGE", help="that the machine lacks as well")
    arguments = parser.parse_args()
    where = [option for name in PLATFORMS for option in ("--platform", name)]
    where += ["--python-version", arguments.python, "--only-binary=:all:", "--no-deps"]
    packages = [*CARRIED.values(), *arguments.more]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *where, "--dest", str(arguments.folder), *packages]
    if code := subprocess.run(command).returncode:
        raise SystemExit(code)
    wheels = list(arguments.folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels) / 1e6
    print(f"{len(wheels)} wheels, {size:.0f} MB: bash scripts/gpu_day.sh --wheels {arguments.folder}")


if __name__ == "__main__":
    main()
