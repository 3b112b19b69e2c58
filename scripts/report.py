"""Write report.html beside the config.yml of a run: one that was trained elsewhere, earlier or without it.

python scripts/report.py --load-config outputs/demo/mobiler2l/RUN/config.yml
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load-config", type=Path, required=True, help="config.yml of a mobiler2l run")
    parser.add_argument("--views", type=int, help="most test views to measure (32)")
    arguments = parser.parse_args()
    if arguments.views is not None and arguments.views < 1:
        parser.error("--views must be at least 1")

    from mobiler2l_ns.report.write import write_report
    from mobiler2l_ns.run.console import print_results
    from mobiler2l_ns.run.opening import open_distilled, pipeline_of
    from mobiler2l_ns.run.trainer import MobileR2LTrainerConfig

    views = arguments.views or MobileR2LTrainerConfig.report_views
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = open_distilled(arguments.load_config)
    written = write_report(pipeline_of(run, device), arguments.load_config, run.step, views)
    facts = written.facts
    print_results(f"{facts.method}: {facts.experiment}", written.results(), {"report": str(written.path)})


if __name__ == "__main__":
    main()
