"""Print what a method's student costs: parameters, multiply-accumulates, bytes and shapes."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace

from rich.console import Console
from rich.table import Table

METHODS = ("mobiler2l", "mobiler2l-fast", "mobiler2l-tiny", "mobiler2l-paper")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--width", type=int, default=800, help="width of the picture in pixels")
    parser.add_argument("--height", type=int, default=800, help="height of the picture in pixels")
    parser.add_argument("--strides", type=int, nargs="*", help="upsampling of each super-resolution module, e.g. 2 2 3")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    arguments = parser.parse_args()

    from mobiler2l_ns import methods
    from mobiler2l_ns.student.network import measure_cost

    config = getattr(methods, arguments.method.replace("-", "_")).config.pipeline.model
    if arguments.strides is not None:
        config = replace(config, strides=tuple(arguments.strides))
    try:
        cost = measure_cost(config, arguments.height, arguments.width)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    if arguments.json:
        print(json.dumps({"method": arguments.method, "strides": list(config.strides), **asdict(cost)}))
        return
    table = Table(title=f"{arguments.method}, {arguments.width} x {arguments.height}, strides {config.strides}")
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, value in asdict(cost).items():
        table.add_row(
            name, f"{value:,}" if isinstance(value, int) else f"{value:.2f}" if isinstance(value, float) else str(value)
        )
    Console().print(table)


if __name__ == "__main__":
    main()
