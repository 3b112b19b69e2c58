"""The teacher's hash grids on a CPU: compiled when it pays, and the same to the last bit."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException
from torch import nn
from torch._dynamo.testing import CompileCounter

from mobiler2l_ns.teacher.hash_grids import HashGrids


class Teacher(nn.Module):
    """Two grids, as nerfacto's field and its proposal network have them."""

    def __init__(self):
        super().__init__()
        self.fine = HashEncoding(num_levels=3, max_res=64, log2_hashmap_size=8, implementation="torch")
        self.coarse = HashEncoding(num_levels=2, max_res=32, log2_hashmap_size=6, implementation="torch")

    def forward(self, points):
        return torch.cat([self.fine(points), self.coarse(points)], dim=-1)


POINTS = torch.rand(40, 5, 3, generator=torch.Generator().manual_seed(0))
LOOKUPS = 40 * 5 * (3 + 2)


@pytest.fixture
def compiles(monkeypatch):
    """Counts torch.compile's calls, and makes it whatever the test sets."""

    class Compile:
        calls = 0
        to = staticmethod(lambda function: function)

        def __call__(self, function, **settings):
            self.calls += 1
            return self.to(function)

    compile = Compile()
    monkeypatch.setattr(torch, "compile", compile)
    return compile


def test_compiled_grids_give_the_same_features_and_gradients():
    teacher = Teacher()
    expected = teacher(POINTS)
    expected.square().sum().backward()
    gradients = [parameter.grad for parameter in teacher.parameters()]
    grids = HashGrids(teacher, pays_after=1)
    teacher.zero_grad()
    features = teacher(POINTS)
    features.square().sum().backward()
    assert set(grids.compiled) == {teacher.fine, teacher.coarse}
    torch.testing.assert_close(features, expected, rtol=0.0, atol=1e-7)
    for parameter, gradient in zip(teacher.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(teacher(POINTS[:7, 0]), expected[:7, 0], rtol=0.0, atol=1e-7)


def test_grids_are_compiled_once_they_have_been_used_enough(compiles):
    teacher = Teacher()
    HashGrids(teacher, pays_after=2 * LOOKUPS)
    teacher(POINTS)
    assert compiles.calls == 0
    drawn_before = torch.get_rng_state()
    for _ in range(3):
        teacher(POINTS)
    assert compiles.calls == 2  # one a grid
    assert torch.equal(torch.get_rng_state(), drawn_before)  # the run draws what it would have drawn


def test_a_render_is_compiled_once_whatever_its_points_were_made_for(monkeypatch):
    compile, counter = torch.compile, CompileCounter()
    monkeypatch.setattr(torch, "compile", lambda function, **settings: compile(function, backend=counter, **settings))
    teacher = Teacher()
    grids = HashGrids(teacher, pays_after=1)
    grids.expect(1)
    assert counter.frame_count == 2  # one a grid
    with torch.no_grad():
        teacher(POINTS)
        teacher(POINTS.reshape(-1, 3).clone().requires_grad_())  # as nerfacto's field has them
        teacher(POINTS[:3, 0])
    assert counter.frame_count == 2


def test_grids_that_much_will_be_asked_of_are_compiled_at_once(compiles):
    teacher = Teacher()
    grids = HashGrids(teacher, pays_after=10 * LOOKUPS)
    teacher(POINTS)
    assert grids.lookups == LOOKUPS
    assert not grids.expect(9 * LOOKUPS)
    assert compiles.calls == 0
    assert grids.expect(10 * LOOKUPS)
    assert compiles.calls == 2 and set(grids.compiled) == {teacher.fine, teacher.coarse}
    assert not grids.expect(10 * LOOKUPS)  # they are
    teacher(POINTS)
    assert compiles.calls == 2


@pytest.mark.parametrize("fails_at", ["compiling", "running"])
def test_where_nothing_compiles_the_grids_stay_as_they_are(compiles, capsys, fails_at):
    def broken(*_):
        raise RuntimeError("No working C++ compiler found\nand a long trace")

    compiles.to = broken if fails_at == "compiling" else lambda function: broken
    teacher = Teacher()
    expected = teacher(POINTS)
    HashGrids(teacher, pays_after=1)
    for _ in range(2):
        assert torch.equal(teacher(POINTS), expected)
    assert compiles.calls == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("No working C++ compiler found") == 1 and "long trace" not in printed


def test_a_render_that_the_viewer_interrupts_leaves_the_compiler_on(compiles):
    def interrupted(*_):
        raise IOChangeException("the camera has moved")

    works, compiles.to = compiles.to, lambda function: interrupted
    teacher = Teacher()
    expected = teacher(POINTS)
    HashGrids(teacher, pays_after=1)
    with pytest.raises(IOChangeException):
        teacher(POINTS)
    compiles.to = works
    assert torch.equal(teacher(POINTS), expected)
    torch.testing.assert_close(teacher(POINTS), expected)
    assert compiles.calls == 3  # the interrupted one, and one a grid
