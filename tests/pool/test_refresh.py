"""Work now and then takes its share of the time and no more."""

import time

import pytest

from mobiler2l_ns.pool.refresh import TimeShare


@pytest.mark.parametrize(("most", "times"), [(0.0, 1), (0.1, 10), (0.5, 50), (1.0, 100)])
def test_work_takes_no_more_than_its_share(monkeypatch, most, times):
    clock = [7.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    share, done = TimeShare(most), 0
    while clock[0] < 107.0:
        if share.has_room():
            done += 1
            with share.taking("cpu"):
                clock[0] += 1.0
        else:
            clock[0] += 1.0
    assert done == pytest.approx(times, abs=1)
    assert share.taken == done
