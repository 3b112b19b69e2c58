"""The versions that are installed together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def pinned(version: str) -> Counter[str]:
    """How often each package is pinned for a Python."""
    lines = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    python = {"python_version": version.rpartition(".")[0], "python_full_version": version}
    return Counter(canonicalize_name(pin.name) for pin in pins if pin.marker is None or pin.marker.evaluate(python))


@pytest.mark.parametrize(("version", "not_needed"), [("3.10.13", {"lazy-importer"}), ("3.12.1", set())])
def test_each_python_has_one_version_of_each_package(version, not_needed):
    # One that is left open lets pip try old release after old release, for longer than anybody waits.
    assert set(pinned("3.11.7")) - set(pinned(version)) == not_needed
    assert set(pinned(version).values()) == {1}
