from __future__ import annotations

import io
import sys

import pytest

from exeunt._support.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose only element is the time in seconds."""
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def test_lines_come_no_more_often_than_asked(clock):
    said: list[str] = []
    progress = Progress("images decoded", say=said.append, every_s=10)
    for second in range(0, 36, 3):
        clock[0] = float(second)
        progress.report(100 * second, 5000)
    assert said == ["1,200 of 5,000 images decoded, 00:37 left", "2,400 of 5,000 images decoded, 00:25 left"]


def test_quick_work_says_nothing():
    said: list[str] = []
    progress = Progress("images decoded", say=said.append)
    progress.report(1, 2)
    progress.report(2, 2)
    progress.close()
    assert said == []


def test_off_a_terminal_long_passes_are_reported_in_lines(capsys):
    assert list(Progress("batches", [7, 8], every_s=0)) == [7, 8]
    assert list(Progress("batches", iter("a"), every_s=0)) == ["a"]
    assert list(Progress("batches", [7], every_s=0, show=False)) == [7]
    said = "0 of 2 batches, ? left", "1 of 2 batches, 00:00 left", "2 of 2 batches", "0 batches", "1 batches"
    assert tuple(capsys.readouterr().err.splitlines()) == said


def test_a_step_is_always_said_with_what_it_gave_and_the_time_left(clock, capsys):
    with Progress("epochs", total=4, done=1, every_s=60) as epochs:
        for second in (10, 20, 30):
            clock[0] = float(second)
            epochs.step("loss 0.5")
        epochs.say("done")
    silent = Progress("epochs", total=4, show=False)
    silent.step("loss 0.5")
    silent.say("done")
    left = {2: ", 00:20 left", 3: ", 00:10 left", 4: ""}
    said = [f"{done} of 4 epochs, loss 0.5{time}" for done, time in left.items()]
    assert capsys.readouterr().err.splitlines() == [*said, "done"]


def test_on_a_terminal_bars_move_and_steps_stay_as_lines(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("epochs", total=1, every_s=60) as epochs:
        list(Progress("batches", range(3)))
        epochs.step("loss 0.5")
    shown = terminal.getvalue()
    assert "batches:   0%" in shown
    assert "1 of 1 epochs, loss 0.5\n" in shown
