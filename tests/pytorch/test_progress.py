from __future__ import annotations

from exeunt.torch import progress
from exeunt.torch.progress import Progress, periodic_lines


def test_lines_come_no_more_often_than_asked():
    now, said = 0.0, []
    report = periodic_lines(said.append, "images decoded", every_s=10, clock=lambda: now)
    for second in range(0, 36, 3):
        now = float(second)
        report(100 * second, 5000)
    assert said == ["1,200 of 5,000 images decoded", "2,400 of 5,000 images decoded"]


def test_quick_work_says_nothing():
    said: list[str] = []
    report = periodic_lines(said.append, "images decoded")
    report(1, 2)
    report(2, 2)
    assert said == []


def test_off_a_terminal_long_passes_are_reported_in_lines(monkeypatch, capsys):
    monkeypatch.setattr(progress, "periodic_lines", lambda say, what: periodic_lines(say, what, every_s=0))
    assert list(Progress(1).track([7, 8], "recording")) == [7, 8]
    assert list(Progress(1).track(iter("a"), "recording")) == ["a"]
    assert list(Progress(1, show=False).track([7], "recording")) == [7]
    shown = capsys.readouterr().err.splitlines()
    assert shown == ["1 of 2 batches of recording", "2 of 2 batches of recording", "1 batches of recording"]
