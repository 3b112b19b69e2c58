"""A fleet of the real commands: a teacher that is trained alone, a student of it, evaluated and exported."""

from __future__ import annotations

from fleet_files import planned, write_fleet

from mobiler2l_ns.fleet.page import teaser
from mobiler2l_ns.fleet.run_one import do_run
from mobiler2l_ns.progress.records import FILE, read_log

TINY = {
    "pipeline.model.width": 24, "pipeline.model.num-blocks": 2, "pipeline.model.sr-channels": [16, 8, 8],
    "pipeline.model.volume-rays": 0, "pipeline.datamanager.pool-views": 4, "pipeline.datamanager.refresh-rate": 0,
    "pipeline.distill-steps": 4, "pipeline.finetune-steps": 2, "report-views": 2,
}  # fmt: skip
TEACHER = {
    "pipeline.teacher-steps": 20, "pipeline.teacher.num-levels": 3, "pipeline.teacher.log2-hashmap-size": 12,
    "pipeline.teacher.num-proposal-samples-per-ray": 24, "pipeline.teacher.num-nerf-samples-per-ray": 12,
}  # fmt: skip


def test_a_teacher_and_its_student_go_through_nerfstudios_commands(demo_scene, tmp_path):
    file = write_fleet(
        tmp_path,
        count=0,
        captures=[{"path": str(demo_scene), "name": "demo"}],
        teachers={"small": {"method": "mobiler2l-tiny", "settings": TEACHER}},
        methods={"student": {"method": "mobiler2l-tiny", "teacher": "small", "settings": TINY}},
        share_pool=True,
        exports=["onnx"],
        gpus=0,
        commands=None,
    )
    plan = planned(file)
    teacher, student = (plan.folder(job) for job in plan.jobs)
    trained = do_run(teacher, 1)
    assert trained.status == "done", trained.last_lines
    assert {record["phase"] for record in read_log((teacher / str(trained.config)).with_name(FILE))} == {"teacher"}
    state = do_run(student, 1)
    assert state.status == "done", state.last_lines
    assert state.result["steps"] == 6 and 0 < state.result["psnr"] < 60 and 0 < state.result["ssim"] < 1
    (package,) = state.result["packages"]
    assert package["format"] == "onnx" and package["mb"] > 0 and package["psnr_student"] > 50
    picture = teaser(student / state.result["report"])
    assert picture is not None and picture.startswith("data:image/jpeg;base64,")
    assert list((plan.output / "pools").glob("pseudo_views_*.pt"))
