#!/usr/bin/env bash
# From nothing to a phone package: sets up .venv, makes the demo scene, trains, evaluates and exports.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
system_libraries
python_environment ""
export PATH="$VENV/bin:$PATH" PYTHONWARNINGS="ignore::FutureWarning"

OUT="${OUT:-demo_output}"
RUN="$OUT/demo/mobiler2l-tiny/$(date +%Y-%m-%d_%H%M%S)"
CONFIG="$RUN/config.yml"
DEVICE="$(python -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')"
MINUTES="${MINUTES:-7}" # of training; scene, evaluation and packages come on top
SECONDS=0

say "1/4  The demo scene"
python scripts/make_demo_scene.py "$OUT/scene"

say "2/4  Training: teacher, distillation, fine-tuning"
ns-train mobiler2l-tiny --data "$OUT/scene" --output-dir "$OUT" --experiment-name demo \
    --timestamp "$(basename "$RUN")" --vis tensorboard --machine.device-type "$DEVICE" \
    --pipeline.minutes "$MINUTES" blender-data

say "3/4  Evaluation on test views"
ns-eval --load-config "$CONFIG" --output-path "$RUN/eval.json" --render-output-path "$RUN/eval_images"

say "4/4  Packages"
ns-export mobiler2l-coreml --load-config "$CONFIG" --output-dir "$RUN/exports"
ns-export mobiler2l-onnx --load-config "$CONFIG" --output-dir "$RUN/exports"

say "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s"
python - "$RUN" <<'PY'
import json
import sys
from pathlib import Path

run = Path(sys.argv[1])
results = json.loads((run / "eval.json").read_text())["results"]
print(f"Student:  {results['psnr']:.2f} dB, SSIM {results['ssim']:.3f} on test views;"
      f" {results['psnr_to_teacher']:.2f} dB to its teacher")
print(f"Teacher:  {results['teacher_psnr']:.2f} dB, SSIM {results['teacher_ssim']:.3f} on test views")
for name, path in {
    "Run": run, "Checkpoint": run / "nerfstudio_models", "Metrics": run / "eval.json", "Pictures": run / "eval_images",
    "Report": run / "report.html",
    "Core ML": run / "exports/mobiler2l.mlpackage", "ONNX": run / "exports/mobiler2l.onnx",
    "Manifest": run / "exports/manifest.json", "Client code": run / "exports/CLIENT.md",
}.items():
    print(f"{name + ':':<13}{path}")
PY
printf '\nLook at it:  %s --load-config %s\n' "$VENV/bin/ns-viewer" "$CONFIG"
