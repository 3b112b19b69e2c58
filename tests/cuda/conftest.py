"""Tests that want a GPU: ``MOBILER2L_TEST_DEVICE=cuda python -m pytest -n 0 tests/cuda``.

``MOBILER2L_TEST_DEVICE=cpu`` rehearses them on the CPU, where what only a GPU has is skipped."""

import os
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> str:
    """The kind of device they run on."""
    kind = os.environ["MOBILER2L_TEST_DEVICE"]
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.fail("torch finds no NVIDIA GPU here")
    return kind


@pytest.fixture(autouse=True)
def _float32_is_float32():
    kinds: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [kind.allow_tf32 for kind in kinds]
    for kind in kinds:
        kind.allow_tf32 = False
    yield
    for kind, allowed in zip(kinds, before, strict=True):
        kind.allow_tf32 = allowed
