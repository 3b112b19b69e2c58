"""A GPU without memory ends a run in one line that says what to make smaller."""

import pytest
import torch
from nerfstudio.engine.trainer import Trainer

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.progress.log import RunLog
from mobiler2l_ns.progress.phases import PhasePlan

ADVICE = {
    (0, True): "where the teacher is trained: start again, and give --pipeline.datamanager.train-num-rays-per-batch",
    (10, False): "where pseudo views are rendered: start again, and give --pipeline.teacher.eval-num-rays-per-chunk",
    (10, True): "where the student is trained: start again, and give --pipeline.datamanager.pool-device cpu",
}


@pytest.mark.parametrize(("step", "ready"), ADVICE)
def test_a_full_gpu_is_one_clear_line(make_config, tmp_path, monkeypatch, step, ready):
    trainer = make_config(tmp_path).setup()
    log = RunLog(PhasePlan(teacher=10, distil=10, finetune=5))
    log.begin_phase(step)
    if ready:
        log.ready(step)
    monkeypatch.setattr(trainer, "pipeline", type("Pipeline", (), {"log": log}), raising=False)
    monkeypatch.setattr(trainer, "_start_step", 0, raising=False)

    def full(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(Trainer, "train", full)
    with pytest.raises(UserError, match=f"^CUDA is out of memory {ADVICE[step, ready]}"):
        trainer.train()
