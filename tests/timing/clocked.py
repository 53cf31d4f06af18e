"""An executor that computes nothing and moves a clock of its own by known amounts."""

from __future__ import annotations

import numpy as np


class Clocked:
    """Computes when it is called.

    `start_s`, `row_s` (s,): seconds of a call of each segment and of each of its rows; `head_s` (m,): of each row of a
    head; `gather_s`: of each row put together. `now` is what its clock says.
    """

    name, device, restarts, border, mask_scale = "clocked", "cpu", (), 1e-5, 1

    def __init__(self, segments, *, start_s, row_s, head_s, gather_s):
        self.segments = tuple(segments)
        self.n_exits = self.segments[-1][1] + 1
        self.start_s, self.row_s, self.head_s, self.gather_s = start_s, row_s, head_s, gather_s
        self.now = 0.0
        self.calls = []

    def clock(self):
        return self.now

    def start(self, inputs):
        return np.asarray(inputs), np.ones(len(inputs), dtype=bool)

    def signature(self, state):
        return state.shape[1:]

    def run(self, segment, state, wanted):
        self.now += self.run_s(segment, len(state))
        self.calls.append((segment, len(state)))
        last = self.n_exits - 1
        self.now += sum(self.head_s[exit_] * len(state) for exit_ in wanted if exit_ != last)
        return [np.tile([0.0, 1.0, 2.0], (len(state), 1)) for _ in wanted], state

    def gather(self, parts):
        state = np.concatenate([state if rows is None else state[rows] for state, rows in parts])
        self.now += self.gather_s * len(state)
        return state

    def compact(self, state, rows):
        self.now += self.gather_s * min(len(rows), len(state) - len(rows))
        return state[rows], rows

    def wait(self):
        pass

    def run_s(self, segment, rows):
        return self.start_s[segment] + self.row_s[segment] * rows


class Accelerator(Clocked):
    """Returns at once from a call, and computes until somebody waits for it or reads logits."""

    device = "cuda (Made Up 1)"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.shown = 0.0

    def clock(self):
        return self.shown

    def wait(self):
        self.shown = self.now

    def run(self, segment, state, wanted):
        logits, state = super().run(segment, state, wanted)
        if logits:
            self.wait()
        return logits, state
