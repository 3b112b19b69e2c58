#!/usr/bin/env bash
# One command for the day there is a GPU: what is here is tested and measured on it, in at most eight minutes.
#
#   bash scripts/gpu_day.sh [--wheels FOLDER] [--out FOLDER] [--seconds 480] [--device cuda|cpu] [--data CAPTURE]
#
# It needs Python 3.10 to 3.12 and no network. What else must be there, and what is not there, scripts/gpu_day_wheels.py
# knows: the day begins with a machine that has torch, torchvision, torchmetrics, numpy (1 or 2), scipy, pillow,
# opencv-python-headless, matplotlib, imageio, jaxtyping, tensorboard, rich, pyyaml, jinja2, tqdm, requests and filelock,
# for the tests pytest and for the export onnx and onnxruntime. What lacks is said in one line, and its part left out.
# To be carried along:
#   - this repository;
#   - a folder of wheels (--wheels), installed without their needs into OUT/site, made beforehand where there is a network:
#     python scripts/gpu_day_wheels.py FOLDER [--python 3.12] [--more PACKAGE ...]. That is nerfstudio and what it imports,
#     24 MB; nothing imports open3d, pymeshlab, wandb, comet, plotly, timm or av, and without coremltools only Core ML
#     packages are left out;
#   - a capture, if the last part is not to train on the demo scene (--data; lego at 800 px has 54 MB).
# OUT holds gpu_day.json, what became of each part, and of each part NAME.log, NAME.json and pictures; all of it is written
# at once, so a cut-off loses what was under way.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
OUT="$PWD/gpu_day" WHEELS="" REST=()
while (($#)); do
    case "$1" in
        --wheels) WHEELS="$(cd "$2" && pwd)" && shift 2 ;;
        --out) OUT="$2" && shift 2 ;;
        *) REST+=("$1") && shift ;;
    esac
done
mkdir -p "$OUT"
command -v nvcc >/dev/null || PATH="$PATH:/usr/local/cuda/bin"
OUT="$(cd "$OUT" && pwd)"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" GPU_DAY_BEGAN="${GPU_DAY_BEGAN:-$(date +%s)}"
if [[ -n "$WHEELS" ]]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$OUT/site" "$WHEELS"/*.whl
    export PYTHONPATH="$OUT/site:$PYTHONPATH"
fi
exec python3 "$ROOT/scripts/gpu_day.py" --out "$OUT" "${REST[@]}"
