"""What a fleet shows: the table, the page, JSON, and mistakes that are told before anything starts."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path

import pytest
from fleet_files import planned, write_fleet
from html_page import Page
from PIL import Image
from rich.console import Console

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.fleet.drive import states_of
from mobiler2l_ns.fleet.page import TEASER_PIXELS, write_page
from mobiler2l_ns.fleet.plan import plan_fleet
from mobiler2l_ns.fleet.run_one import do_run
from mobiler2l_ns.fleet.spec import read_fleet
from mobiler2l_ns.fleet.state import SILENT, RunState
from mobiler2l_ns.fleet.table import Lines, as_json, fleet_table
from mobiler2l_ns.plugin import fleet_command


@pytest.fixture
def fleet(tmp_path):
    """A fleet whose run a is done, with a report, and whose run b has failed."""
    plan = planned(write_fleet(tmp_path, exports=["web"], captures=["captures/*"]))
    first, second = (plan.folder(job) for job in plan.jobs)
    do_run(first, 1)
    picture = io.BytesIO()
    Image.new("RGB", (400, 300), "red").save(picture, "png")
    url = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
    report = first / "a/mobiler2l-tiny/1/report.html"
    report.write_text(f'<img src="{url}" alt="photo, x.png"><img src="{url}" alt="student, x.png">')
    state = RunState.read(first)
    state.result["report"] = report.relative_to(first).as_posix()
    state.write(first)
    RunState("failed", "train", failures=3, host="node7", last_lines=["[red]boom</pre><script>"]).write(second)
    return plan


def printed(renderable) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_page_holds_pictures_figures_links_and_failures_first(fleet):
    path = write_page(fleet, states_of(fleet), "[fleet]")
    text = path.read_text()
    Page(text)
    assert text.index("<h2>Failed</h2>") < text.index("<h2>Runs</h2>")
    assert "[red]boom&lt;/pre&gt;&lt;script&gt;" in text and "node7" in text
    assert "30.00" in text and "0.900" in text and "2.00" in text and "12.5" in text and "0:00:09" in text
    (picture,) = [value for value in text.split('"') if value.startswith("data:image/jpeg;base64,")]
    image = Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2])))
    assert max(image.size) == TEASER_PIXELS
    links = [value for value in text.split('"') if value.endswith(".html")]
    assert len(links) == 2 and links[0].endswith("/a/mobiler2l-tiny/1/report.html")
    assert (path.parent / links[0]).is_file() and links[1].endswith("/packages/student.web/index.html")
    assert "http" not in text


def test_the_table_and_the_lines_say_how_far_each_run_is(fleet):
    states = states_of(fleet)
    key = fleet.jobs[1].key
    states[key] = RunState(
        "running", "train", phase="distil", step=41, psnr=21.5, seconds_left=61, host="[bold]", attempt=2
    )
    states[key].updated = 1e12
    table = printed(fleet_table(fleet, states))
    assert "1 done, 1 running" in table
    (row,) = [line for line in table.splitlines() if key in line]
    for cell in ("distil", "41", "21.50", "0:01:01", "[bold]"):
        assert cell in row
    states[key].updated -= 1e12 + SILENT
    assert "no sign of it" in printed(fleet_table(fleet, states))
    console = Console(width=200, file=io.StringIO())
    say = Lines(console)
    for _ in range(2):
        say(fleet, states)
    assert console.file.getvalue().count(key) == 1  # type: ignore[attr-defined]


def test_a_learning_curve_is_not_shown_beside_what_others_have_on_test_views(fleet):
    states = states_of(fleet)
    states[fleet.jobs[1].key] = RunState("done", phase="teacher", psnr=29.52)
    console = Console(width=200, file=io.StringIO())
    Lines(console)(fleet, states)
    for shown in (printed(fleet_table(fleet, states)), console.file.getvalue()):  # type: ignore[attr-defined]
        assert "30.00" in shown and "29.52" not in shown


def test_json_tells_all_of_each_run(fleet):
    found = json.loads(json.dumps(as_json(fleet, states_of(fleet))))
    done, failed = found["runs"]
    assert done["result"]["psnr"] == 30.0 and done["capture"] == "a" and done["status"] == "done"
    assert failed["last_lines"] == ["[red]boom</pre><script>"] and Path(failed["folder"]).is_dir()


def run_command(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["mobiler2l-fleet", *words])
    fleet_command.entrypoint()


def test_status_and_report_look_on(fleet, monkeypatch, capsys):
    file = fleet.output.parent / "fleet.yaml"
    run_command(monkeypatch, "status", str(file), "--json")
    assert [run["status"] for run in json.loads(capsys.readouterr().out)["runs"]] == ["done", "failed"]
    run_command(monkeypatch, "report", str(file))
    assert Path(capsys.readouterr().out.strip()).name == "fleet.html"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"settings": {"pipeline.model.widht": 32}}, "methods.mobiler2l-tiny with capture a: Unrecognized options"),
        ({"settings": {"pipeline.model.width": "wide"}}, "methods.mobiler2l-tiny with capture a: "),
        ({"methods": ["mobiler3l"]}, "methods.mobiler3l.method: ns-train knows no mobiler3l"),
        ({"exports": ["onnx --precision int7"]}, "exports[0]: "),
        ({"exports": ["onyx"]}, "exports[0]: there is no format onyx; there are coreml"),
    ],
)
def test_what_a_command_would_not_take_is_told_in_a_line_before_anything_starts(tmp_path, fields, said):
    spec = read_fleet(write_fleet(tmp_path, count=1, commands=None, **fields))
    with pytest.raises(UserError) as raised:
        fleet_command.check_words(spec, plan_fleet(spec))
    assert said in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_what_the_commands_take_passes(tmp_path):
    settings = {"pipeline.model.strides": [2, 2, 3], "pipeline.model.alpha": True, "pipeline.minutes": None}
    fields = {"exports": ["web", "onnx --precision int8"], "settings": settings, "commands": None}
    spec = read_fleet(write_fleet(tmp_path, count=1, **fields, teachers={"t": {"method": "nerfacto"}}))
    fleet_command.check_words(spec, plan_fleet(spec))
