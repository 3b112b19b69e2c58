"""The fleet file: what it says, and what is told of a mistake in it."""

from __future__ import annotations

import json

import pytest
import yaml
from fleet_files import write_fleet

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.fleet.plan import plan_fleet
from mobiler2l_ns.fleet.spec import read_fleet


def jobs(file):
    return plan_fleet(read_fleet(file)).jobs


def words(job) -> str:
    return " ".join([job.method, *job.arguments, *job.dataparser])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"captures": None}, "captures: there is none"),
        ({"captures": "captures/*"}, "captures: give a list of paths and globs"),
        ({"captures": ["nowhere"]}, "captures[0]: nowhere: there is no "),
        ({"captures": ["captures/a", "nowhere/*"]}, "captures[1]: nowhere/*: no capture matches it"),
        (
            {"captures": [{"path": "captures/a", "colour": 1}]},
            "captures[0].colour: not known here; known are path, name",
        ),
        ({"captures": [{"path": "captures/a", "name": "../x"}]}, "captures[0].name: '../x' cannot name a folder"),
        ({"captures": [{"path": "captures/*", "name": "x"}]}, "captures[0].name: captures/* is 2 captures"),
        ({"captures": ["captures/a", {"path": "captures/b", "name": "a"}]}, "are both named a: give names"),
        ({"methods": {}}, "methods: there is none"),
        ({"methods": {"s": {"settings": ["a"]}}}, "methods.s.settings: give keys and values"),
        ({"methods": {"s": {"settings": {"a": {"b": 1}}}}}, "methods.s.settings.a: give a value or a list of values"),
        ({"methods": {"s": {"teacher": "t"}}}, "methods.s.teacher: there is no teacher t; there is none"),
        ({"matrix": {"a": 1}}, "matrix.a: give a list of values, not 1"),
        ({"share-pool": True}, "share-pool: a pool is shared by the students of one teacher"),
        ({"exports": "web"}, "exports: give a list such as"),
        ({"tries": 0}, "tries: give a number from 1 on, not 0"),
        ({"gpus": "two"}, "gpus: give a number from 0 on, not 'two'"),
        ({"evaluate": "yes"}, "evaluate: give true or false"),
        ({"commands": {"train": 3}}, "commands.train: give words, not 3"),
        ({"colour": 1}, "colour: not known here; known are captures, methods"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_key(tmp_path, fields, said):
    file = write_fleet(tmp_path, **fields)
    with pytest.raises(UserError) as raised:
        read_fleet(file)
    assert str(raised.value).startswith(f"{file}: ") and said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("text", "said"), [(None, "cannot be read"), ("a: [", "is no YAML"), ("- a", "give keys")])
def test_a_file_that_is_none_is_one_line(tmp_path, text, said):
    file = tmp_path / "fleet.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=said):
        read_fleet(file)


def test_captures_times_methods_times_the_matrix_are_runs(tmp_path):
    file = write_fleet(
        tmp_path,
        methods={"small": {"method": "mobiler2l-fast", "settings": {"pipeline.minutes": 5}}, "mobiler2l": None},
        settings={"pipeline.model.norm": True, "pipeline.minutes": 9},
        matrix={"pipeline.model.prune": [[], 0.3], "pipeline.model.strides": [[2, 2, 3]]},
    )
    found = jobs(file)
    assert len(found) == 2 * 2 * 2 and len({job.key for job in found}) == 8
    small = [job for job in found if job.capture == "b" and job.label.startswith("small")]
    assert [job.label for job in small] == ["small+prune=none+strides=2-2-3", "small+prune=0.3+strides=2-2-3"]
    assert "mobiler2l-fast " in words(small[1]) and "--pipeline.minutes 5 " in words(small[1])
    assert words(small[1]).endswith("--pipeline.model.prune 0.3 --pipeline.model.strides 2 2 3")
    assert "--pipeline.model.norm True" in words(small[1])
    assert "--pipeline.model.prune --pipeline.model.strides" in words(small[0])


def test_a_changed_setting_is_another_run_and_another_export_is_not(tmp_path):
    def key(**fields):
        return jobs(write_fleet(tmp_path, count=1, **fields))[0].key

    first = key()
    assert key() == first == key(exports=["web"], evaluate=False, gpus=0.5, tries=7)
    others = {
        key(settings={"pipeline.minutes": 1}),
        key(methods=["mobiler2l"]),
        key(methods={"mobiler2l-tiny": {"teacher": "t"}}, teachers={"t": {"method": "nerfacto"}}),
        key(methods={"mobiler2l-tiny": {"teacher": "t"}}, teachers={"t": {"method": "splatfacto"}}),
        key(captures=[{"path": "captures/a", "dataparser": "nerfstudio-data --scale-factor 2"}]),
    }
    assert len(others) == 5 and first not in others


def test_a_fleet_that_is_moved_keeps_its_runs(tmp_path):
    before = write_fleet(tmp_path / "here")
    known = [job.key for job in jobs(before)]
    (tmp_path / "here").rename(tmp_path / "there")
    assert [job.key for job in jobs(tmp_path / "there" / "fleet.yaml")] == known


def test_students_of_a_teacher_share_one_run_of_it_on_each_capture(tmp_path):
    file = write_fleet(
        tmp_path,
        teachers={"big": {"method": "mobiler2l", "settings": {"pipeline.teacher-steps": 7}}, "idle": None},
        methods={"s": {"method": "mobiler2l-fast", "teacher": "big"}, "t": {"teacher": "big", "method": "mobiler2l"}},
        share_pool=True,
    )
    plan = plan_fleet(read_fleet(file))
    teachers = [job for job in plan.jobs if job.is_teacher]
    assert [job.label for job in teachers] == ["teacher-big"] * 2 and list(plan.jobs[:2]) == teachers
    assert "--pipeline.distill-steps 0 --pipeline.finetune-steps 0" in words(teachers[0])
    assert teachers[0].steps == ["train"]
    for job in plan.jobs[2:]:
        (mine,) = [each for each in teachers if each.capture == job.capture]
        assert job.teacher == str(plan.folder(mine)) and job.pool == str(plan.output / "pools")


@pytest.mark.parametrize(
    ("files", "parser"),
    [
        (["transforms.json"], []),
        (["transforms_train.json"], ["blender-data"]),
        (["sparse/0/cameras.bin"], ["colmap", "--colmap-path", "sparse/0"]),
    ],
)
def test_a_capture_is_read_as_its_files_tell(tmp_path, files, parser):
    for name in files:
        (tmp_path / "scene" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "scene" / name).touch()
    (job,) = jobs(write_fleet(tmp_path, count=0, captures=["scene"]))
    assert job.dataparser == parser


def test_what_a_glob_matches_and_is_no_capture_is_left_out_and_known(tmp_path):
    (tmp_path / "captures" / "empty").mkdir(parents=True)
    spec = read_fleet(write_fleet(tmp_path))
    assert [capture.name for capture in spec.captures] == ["a", "b"]
    assert [path.name for path in spec.skipped] == ["empty"]


def test_what_a_job_is_survives_its_file(tmp_path):
    plan = plan_fleet(read_fleet(write_fleet(tmp_path, exports=["web"], gpus=0.5)))
    job = plan.jobs[0]
    job.write(plan.folder(job))
    assert type(job).read(plan.folder(job)) == job
    assert json.loads((plan.folder(job) / "job.json").read_text())["gpus"] == 0.5
    assert yaml.safe_load((tmp_path / "fleet.yaml").read_text())["gpus"] == 0.5
