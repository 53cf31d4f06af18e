"""The figure of a watch shows what the watch found."""

from __future__ import annotations

import numpy as np
import pytest

import exeunt as ex
from exeunt.evaluation.figures import draw_watch, save_figure


@pytest.fixture(scope="module")
def policy():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 5, 900)
    logits = rng.normal(size=(900, 3, 5))
    logits[np.arange(900), :, label] += [2.0, 3.0, 4.0]
    fit, calibrate, _ = ex.ExitTrace.from_logits(logits, cost=ex.CostModel([1, 2, 3]), label=label).split()
    return ex.eero(fit, calibrate, budget="60%")


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_an_alarm_is_drawn_with_its_threshold_its_interval_and_the_shares_since(policy, tmp_path):
    watch, rng = ex.Watch(policy), np.random.default_rng(0)
    shares = policy.counts / policy.counts.sum()
    watch.update(rng.choice(3, 500, p=shares))
    (alarm,) = watch.update(np.full(500, 2))
    above, below = draw_watch(watch).axes
    drawn = lines(above)
    assert drawn["alarm at 100,000"].get_ydata()[0] == 1e5
    assert drawn[f"since about input {alarm.since:,} (95% interval)"].get_xdata()[0] == alarm.since
    assert drawn[f"noticed at input {alarm.at:,}"].get_xdata()[0] == alarm.at
    assert drawn["evidence"].get_xdata()[-1] == 1000
    assert max(drawn["evidence"].get_ydata()) >= 1e5
    heights = [bar.get_height() for bar in below.patches]
    assert heights == pytest.approx([*shares, *alarm.shares])
    assert all(file.stat().st_size > 1000 for file in save_figure(draw_watch(watch), tmp_path / "watch.png"))


def test_a_watch_without_an_alarm_or_without_any_input_is_drawn_too(policy):
    watch = ex.Watch(policy)
    above, below = draw_watch(watch).axes
    assert list(lines(above)) == ["evidence", "alarm at 100,000"]
    assert len(below.patches) == 3
    watch.update([0, 1, 1, 2])
    below = draw_watch(watch).axes[1]
    assert [bar.get_height() for bar in below.patches[3:]] == [0.25, 0.5, 0.25]
