"""Tests that want a GPU: ``MOBILER2L_TEST_DEVICE=cuda python -m pytest -n 0 tests/cuda``.

``MOBILER2L_TEST_DEVICE=cpu`` rehearses them on the CPU, where what only a GPU has is skipped."""

import os

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
def _float32_is_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
