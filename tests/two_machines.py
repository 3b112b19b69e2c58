"""One of several machines with a device each, as a process on this one: ``ns-train --machine.num-machines`` on CPUs.

    python two_machines.py CONFIG RANK PORT

nerfstudio's launcher asserts that there are GPUs, on CPUs too; that assertion is lifted, the rest is its own.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

MACHINES = 2


def without_gpus(local_rank: int, main_func: Any, *rest: Any) -> Any:
    """nerfstudio's worker, told of a GPU until it begins to train."""
    import torch
    from nerfstudio.scripts import train

    seen = torch.cuda.is_available, torch.cuda.device_count
    torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1

    def begin(*arguments: Any) -> Any:
        torch.cuda.is_available, torch.cuda.device_count = seen
        torch.set_num_threads(1)
        return main_func(*arguments)

    return train._distributed_worker(local_rank, begin, *rest)


def train_on_two_machines(config: Any, folder: Path) -> list[str]:
    """Train a run; returns what each machine has said."""
    import yaml

    path = folder / "wanted.yml"
    path.write_text(yaml.dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, str(path)]
    streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    machines = [subprocess.Popen([*command, str(rank), str(port)], **streams) for rank in range(MACHINES)]
    try:
        said = [machine.communicate(timeout=540)[0] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0] * MACHINES, "\n".join(said)
    return said


def main() -> None:
    import yaml
    from nerfstudio.configs import method_configs  # noqa: F401  loads the plugin
    from nerfstudio.scripts import train

    config = yaml.load(Path(sys.argv[1]).read_text(), Loader=yaml.Loader)
    config.machine.num_machines, config.machine.machine_rank = MACHINES, int(sys.argv[2])
    config.machine.dist_url = f"tcp://127.0.0.1:{sys.argv[3]}"
    train._distributed_worker = without_gpus
    train.main(config)


if __name__ == "__main__":
    main()
