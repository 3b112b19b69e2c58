"""Print what a method's student costs: parameters, multiply-accumulates, bytes and shapes.

    python scripts/describe_student.py mobiler2l
    python scripts/describe_student.py --load-config outputs/demo/mobiler2l/RUN/config.yml

A run's student is counted as it is in its checkpoint, pruned or not.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

METHODS = ("mobiler2l", "mobiler2l-fast", "mobiler2l-tiny", "mobiler2l-paper")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("method", choices=METHODS, nargs="?")
    what.add_argument("--load-config", type=Path, help="config.yml of a run, in place of a method")
    parser.add_argument("--width", type=int, default=800, help="width of the picture in pixels")
    parser.add_argument("--height", type=int, default=800, help="height of the picture in pixels")
    parser.add_argument("--strides", type=int, nargs="*", help="upsampling of each super-resolution module, e.g. 2 2 3")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    arguments = parser.parse_args()

    from mobiler2l_ns.errors import UserError
    from mobiler2l_ns.plugin import methods
    from mobiler2l_ns.run.opening import open_distilled, student_of
    from mobiler2l_ns.student.cost import measure_cost

    try:
        if arguments.load_config is not None:
            name, student = str(arguments.load_config), student_of(open_distilled(arguments.load_config)).network
            config = student.config
            if arguments.strides is not None:
                raise SystemExit("A run's student has its strides: leave out --strides")
        else:
            name = arguments.method
            student = config = getattr(methods, name.replace("-", "_")).config.pipeline.model
            if arguments.strides is not None:
                student = config = replace(config, strides=tuple(arguments.strides))
        cost = measure_cost(student, arguments.height, arguments.width)
    except (UserError, ValueError) as error:
        raise SystemExit(str(error)) from None
    if arguments.json:
        print(json.dumps({"method": name, "strides": list(config.strides), **asdict(cost)}))
        return
    table = Table(title=f"{name}, {arguments.width} x {arguments.height}, strides {config.strides}")
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, value in asdict(cost).items():
        table.add_row(
            name, f"{value:,}" if isinstance(value, int) else f"{value:.2f}" if isinstance(value, float) else str(value)
        )
    Console().print(table)


if __name__ == "__main__":
    main()
