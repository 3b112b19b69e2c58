"""Runs in the interpreter that has coreai-torch, and imports nothing of this package.

    python worker.py convert JOB.json     # program, package, names, metadata: see ``convert`` beside it
    python worker.py run PACKAGE          # then a line for each frame: the .npz of its inputs, answered by "done"

What it answers begins with "mobiler2l " on its standard output; the rest there is the libraries'.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

SAY = "mobiler2l "
WIDEN = "(Tensor values) -> Tensor"


def convert(job: dict[str, Any]) -> None:
    """Turn a saved program of torch.export into a package."""
    import torch
    import torch._decomp
    from coreai.runtime import AIModelAssetMetadata  # type: ignore[import-not-found]
    from coreai_torch import TorchConverter, get_decomp_table  # type: ignore[import-not-found]
    from torch._decomp import get_decompositions

    # The operation of ``volume_graph`` that widens a table which is stored in half precision.
    widening = torch.library.custom_op("mobiler2l::widen", lambda values: values.float(), mutates_args=(), schema=WIDEN)
    widening.register_fake(lambda values: torch.empty_like(values, dtype=torch.float32))
    program = torch.export.load(job["program"])
    table = get_decomp_table()
    packet: Any = torch.ops.mobiler2l.widen
    table[packet.default] = lambda values: values.to(torch.float32)
    # Lookups of pictures become arithmetic and gathers: the converter knows none.
    table.update(get_decompositions([torch.ops.aten.grid_sampler_2d]))  # type: ignore[arg-type]
    program = program.run_decompositions(table)
    # Without stack traces, which hold paths of this machine.
    converter = TorchConverter(mode=TorchConverter.Mode.RELEASE)
    converter.add_exported_program(program, input_names=job["inputs"], output_names=["image"])
    metadata = AIModelAssetMetadata()
    metadata.author, metadata.license = job["author"], job["license"]
    metadata.model_description = job["description"]
    for name, value in job["metadata"].items():
        metadata.set_custom(name, value)
    asset = converter.to_coreai().save_asset(Path(job["package"]), metadata)
    # No date, and no order of chance.
    asset.update_metadata(lambda about: setattr(about, "creation_date", None))
    file = Path(job["package"]) / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf8")), indent=2, sort_keys=True) + "\n", "utf8")


async def run(package: Path) -> None:
    """Answer frames until the input ends."""
    import numpy as np
    from coreai.authoring.asset import AIModelAsset  # type: ignore[import-not-found]
    from coreai.runtime import NDArray  # type: ignore[import-not-found]

    async with AIModelAsset.load(package).executable() as model:
        function = model.load_function("main")
        dtypes = {name: function.desc.input_descriptor(name).dtype for name in function.desc.input_names}
        say("ready")
        for line in sys.stdin:
            file = Path(line.rstrip("\n"))
            with np.load(file) as inputs:
                given = {name: NDArray(inputs[name].astype(dtypes[name])) for name in inputs.files}
            answer = await function(given)
            np.save(file.with_suffix(".npy"), answer["image"].numpy())
            say("done")


def say(text: str) -> None:
    print(f"\n{SAY}{text}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if sys.argv[1] == "convert":
        convert(json.loads(Path(sys.argv[2]).read_text(encoding="utf8")))
    else:
        asyncio.run(run(Path(sys.argv[2])))
