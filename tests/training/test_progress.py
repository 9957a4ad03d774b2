"""Progress that is shown: few lines in a log, a bar on a terminal."""

import sys
from io import StringIO
from threading import Thread
from types import SimpleNamespace

import pytest

from skmfr._training import progress
from skmfr._training.progress import Watch

INFO = {"fvu": 0.25, "agreement": 0.5}


class Terminal(StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """The time, to be set."""
    time = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "monotonic", lambda: time.now)
    return time


@pytest.fixture
def shown(make_settings, monkeypatch, clock):
    """What a fit shows, of so many steps that take so long each."""

    def show(n_steps, seconds, stream, first=1, last=None):
        monkeypatch.setattr(sys, "stderr", stream)
        settings = make_settings(n_components=24, k=3, alpha=0.5)
        with Watch(settings, 1, None) as watch:
            monkeypatch.setattr(watch, "info", lambda state: INFO)
            for step in range(first, (last or n_steps) + 1):
                clock.now += seconds
                schedule = SimpleNamespace(n_steps=n_steps)
                watch(SimpleNamespace(step=step, schedule=schedule))
        return stream.getvalue()

    return show


def steps(log):
    return [int(line.split("step ")[1].split(" of")[0]) for line in log.splitlines()]


def test_a_log_has_a_line_for_each_tenth(shown):
    log = shown(2000, 0.01, StringIO())
    assert steps(log) == list(range(200, 2001, 200))
    line = "MFR 24 atoms, k=3, alpha=0.5: step 200 of 2000, 2 s, FVU=0.2500, agreement="
    assert log.startswith(line + "0.500\n")
    assert len(log) < 1000


def test_a_log_of_a_short_fit_has_its_end_alone(shown):
    assert steps(shown(2000, 0.0001, StringIO())) == [2000]


def test_a_log_of_a_long_fit_is_never_silent_for_long(shown):
    log = steps(shown(100, 200, StringIO()))
    # Every 400 s, and the tenths.
    assert log[:6] == [2, 4, 6, 8, 10, 12]
    assert set(range(10, 101, 10)) <= set(log)
    assert len(log) <= 60


def test_a_log_has_the_step_at_which_training_ended(shown):
    assert steps(shown(1000, 0.02, StringIO(), last=250)) == [100, 200, 250]


def test_a_terminal_has_a_bar_that_begins_with_its_length(shown):
    drawn = shown(20, 0.1, Terminal(), first=6).split("\r")
    assert drawn[0] == ""
    assert "MFR 24 atoms, k=3, alpha=0.5:  25%" in drawn[1]
    assert "5/20" in drawn[1]
    assert "20/20" in drawn[-1]
    assert "FVU=0.2500, agreement=0.500" in drawn[-1]


def test_fits_side_by_side_are_told_apart(shown):
    found = []
    worker = Thread(target=lambda: found.append(shown(10, 1, Terminal())), name="two")
    worker.start()
    worker.join()
    # No bars: they would draw into each other.
    assert all("alpha=0.5 [two]: step" in line for line in found[0].splitlines())
