"""The GPU that is not there catches what a card would not bear, and what would let the host wait for it."""

import pytest
import torch
from fake_gpu import GPU, Stall, fake_gpu
from small_student import VOLUME, make_student

from mobiler2l_ns.student.renderer import Student

DEVICES = "two different devices|different device|Unhandled FakeTensor Device"


def test_a_tensor_of_the_cpu_among_those_of_the_gpu_is_caught():
    with fake_gpu():
        on_gpu = torch.rand(3, device=GPU)
        with pytest.raises(RuntimeError, match=DEVICES):
            _ = on_gpu * torch.rand(3)
        assert (on_gpu * torch.tensor(2.0)).device == GPU  # a number may come from anywhere


@pytest.mark.parametrize("ask", [float, bool, int, torch.Tensor.item, lambda value: value.tolist()])
def test_asking_the_gpu_for_a_value_is_caught(ask):
    with fake_gpu():
        value = torch.rand(1, device=GPU)
        with pytest.raises(Stall):
            ask(value)
        with pytest.raises(Stall):
            ask(value.cpu())


def test_what_stays_on_the_cpu_is_computed_as_ever():
    with fake_gpu():
        values = torch.arange(4.0)
        values[1:3] += 1.0
        assert values.tolist() == [0.0, 2.0, 3.0, 3.0]


def test_indices_are_torchs_own():
    x, rows, columns = torch.arange(120.0).reshape(2, 3, 4, 5), torch.tensor([0, 2]), torch.tensor([1, 3])
    indices = [
        0,
        -1,
        None,
        slice(None, None, 2),
        (..., 0),
        (slice(None), None, 1),
        (..., None, slice(1, 3)),
        (slice(None), rows),
        (0, ..., columns),
        (slice(None), rows, columns),
        (1, slice(None), columns, slice(0, 2)),
    ]
    with fake_gpu():
        for index in indices:
            assert x.to(GPU)[index].shape == x[index].shape


def test_a_planted_tensor_of_the_cpu_fails_a_forward_pass(monkeypatch):
    student = make_student(sphere=True, **VOLUME)
    rays = student.view().rays(torch.eye(4)[None, :3])
    t_values = Student.t_values
    with fake_gpu():
        student.to(GPU)
        on_gpu = [each.to(GPU) for each in rays]
        assert student(*on_gpu).device == GPU
        monkeypatch.setattr(Student, "t_values", lambda self: torch.linspace(-1.0, 1.0, self.config.num_points))
        with pytest.raises(RuntimeError, match=DEVICES):
            student(*on_gpu)
        monkeypatch.setattr(Student, "t_values", t_values)
        student.capture.scene_centre = torch.zeros(3)
        with pytest.raises(RuntimeError, match=DEVICES):
            student(*on_gpu)
