#!/usr/bin/env bash
# One command for the day there is a GPU: what is here is tested and measured on it, in at most eight minutes.
#
#   bash scripts/gpu_day.sh [--wheels FOLDER] [--out FOLDER] [--seconds 480] [--device cuda|cpu] [--data CAPTURE]
#
# It needs Python 3.10 or newer with torch, torchvision, torchmetrics, jaxtyping, onnx, onnxruntime, tensorboard, rich,
# matplotlib and pytest, and no network. To be carried along:
#   - this repository;
#   - a folder of wheels (--wheels), installed without their needs into OUT/site: nerfstudio 1.1.5, viser 0.2.7, tyro,
#     nerfacc, gsplat 1.4.0, tensorly, rawpy, fpsample, mediapy, pytorch-msssim, pyquaternion, appdirs, docstring_parser,
#     msgspec, splines, websockets, pathos, multiprocess, dill, ppft, pox. Nothing imports open3d, pymeshlab, wandb, comet,
#     plotly, timm or av, and without coremltools only Core ML packages are left out;
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
OUT="$(cd "$OUT" && pwd)"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" GPU_DAY_BEGAN="${GPU_DAY_BEGAN:-$(date +%s)}"
if [[ -n "$WHEELS" ]]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$OUT/site" "$WHEELS"/*.whl
    export PYTHONPATH="$OUT/site:$PYTHONPATH"
fi
exec python3 "$ROOT/scripts/gpu_day.py" --out "$OUT" "${REST[@]}"
