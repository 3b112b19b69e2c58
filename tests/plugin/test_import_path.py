"""What ns-train loads is there on a machine that was set up for training alone."""

import subprocess
import sys

ABSENT = ("open3d", "pymeshlab", "xatlas", "trimesh", "wandb", "comet_ml", "plotly", "timm", "av", "coremltools")
BLOCKED = f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r}))"


def test_training_evaluating_and_exporting_need_no_mesh_library_and_core_ml_is_left_out_where_it_is_missing():
    modules = "nerfstudio.scripts.train", "nerfstudio.scripts.eval", "mobiler2l_ns.run.trainer"
    code = f"{BLOCKED}\nimport {', '.join(modules)}\nimport mobiler2l_ns.plugin.export_commands as e"
    code += "\nfrom mobiler2l_ns.export.formats import all_formats"
    code += "\nprint({name: kind.missing() for name, kind in all_formats().items()}['coreml'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "pip install coremltools  (missing: coremltools)"
