"""Which Python code still gives a graph with a variable batch size, and the message about code that does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from exeunt.errors import NotCuttable, NotExportable
from exeunt.torch.cutting import torch_export
from exeunt.torch.cutting.cut import cut

WIDTH = 12


class Net(nn.Module):
    """Linear layers a, b and c, with the code of `middle` between the first two."""

    def __init__(self, middle):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.token = nn.Parameter(torch.randn(1, WIDTH))
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.middle = middle

    def forward(self, x):
        return self.c(self.b(self.middle(self, self.a(x))))


def with_a_state(net, x):
    state = torch.zeros(1, len(x), 4)
    return net.lstm(x.view(len(x), 3, 4), (state, state))[0].flatten(1)


FIRST_WAY = {
    "shape[0]": lambda net, x: x + net.token.expand(x.shape[0], -1),
    "size(0)": lambda net, x: x.view(x.size(0), -1),
    "zeros of shape[0]": lambda net, x: x + torch.zeros(x.shape[0], WIDTH),
    "shape unpacked": lambda net, x: x.reshape(x.shape[0], 3, 4).transpose(1, 2).reshape(*x.shape),
    "no_grad": torch.no_grad()(lambda net, x: x * 2),
    "numbers of NumPy": lambda net, x: x / np.sqrt(WIDTH),
    "lstm": lambda net, x: net.lstm(x.view(-1, 3, 4))[0].flatten(1),
}
SECOND_WAY = {
    "len in expand": lambda net, x: x + net.token.expand(len(x), -1),
    "len in view": lambda net, x: x.view(len(x), -1),
    "len in zeros": lambda net, x: x + torch.zeros(len(x), WIDTH),
    "len in arange": lambda net, x: x[torch.arange(len(x))],
    "max of len": lambda net, x: x / max(len(x), 1) * max(x.shape[0], 1),
    "len in repeat": lambda net, x: x + net.token.repeat(len(x), 1),
    "len in the state of an LSTM": with_a_state,
    "numpy and back": lambda net, x: torch.from_numpy(x.detach().numpy()),
}


@pytest.mark.parametrize(("code", "expected"), [(FIRST_WAY, [False]), (SECOND_WAY, [False, True])])
def test_usual_code_is_cut_in_the_second_way_only_if_the_first_fails(monkeypatch, code, expected):
    """One network runs all the code of a way, which is exported once."""

    def middle(net, x):
        for one in code.values():
            x = one(net, x)
        return x

    def noted(*args, strict, **rest):
        ways.append(strict)
        return export(*args, strict=strict, **rest)

    ways, export = [], torch_export.export
    monkeypatch.setattr(torch_export, "export", noted)
    net = Net(middle).eval()
    staged = cut(net, torch.randn(2, 4), at=["a", "b"])
    assert ways == expected
    with torch.no_grad():
        for n in (1, 3, 5):
            x = torch.randn(n, 4)
            torch.testing.assert_close(staged(x), net(x))


NUMBER, VALUES = "turns the number of inputs into a plain number. Use x.shape[0]", "choose with torch.where"
# The names after # are looked for in the messages: they show that the line itself is quoted.
REFUSED = {
    "rows": (lambda net, x: torch.stack([row * 2 for row in x]), NUMBER),  # rows
    "range": (lambda net, x: torch.stack([x[i] for i in range(x.shape[0])]), NUMBER),  # range
    "unbind": (lambda net, x: torch.stack(x.unbind(0)), NUMBER),  # unbind
    "split": (lambda net, x: torch.cat([one * 2 for one in x.split(1)]), NUMBER),  # split
    "if": (lambda net, x: x * 2 if x.sum() > 0 else x, VALUES),  # if
    "any": (lambda net, x: x * 2 if bool((x > 0).any()) else x, VALUES),  # any
    "tolist": (lambda net, x: torch.tensor(x.tolist()), "fails: "),  # tolist
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_code_is_refused_with_its_line_and_a_mend(name, capfd):
    middle, message = REFUSED[name]
    line = rf"line {middle.__code__.co_firstlineno} of \S*test_torch_export.py, `.*# {name}`,"
    said = rf"^Net cannot be exported with a variable batch size: {line}"
    with pytest.raises(NotExportable, match=said) as refused:
        cut(Net(middle).eval(), torch.randn(2, 4), at=["a", "b"])
    assert message in str(refused.value)
    assert capfd.readouterr() == ("", "")  # PyTorch prints half a graph


MIXING = "its rows depend on each other, so none can be dropped"
CHECKED = {
    "the largest value": (lambda net, x: x * x.max().item(), MIXING),
    "the number of rows": (lambda net, x: x * x.shape[0] ** 0.5, MIXING),
    "attention between rows": (lambda net, x: (x @ x.T).softmax(-1) @ x, MIXING),
    "vmap": (
        lambda net, x: torch.vmap(lambda row: row * 2)(x),
        # As PyTorch 2.8 says it, and later versions.
        r"cannot be exported with a variable batch size: its code fails|stage that ends at 'b' fails where the model",
    ),
}


@pytest.mark.parametrize("name", CHECKED)
def test_a_graph_that_computes_something_else_is_refused(name):
    middle, message = CHECKED[name]
    with pytest.raises(NotCuttable, match=message):
        cut(Net(middle).eval(), torch.randn(2, 4), at=["a", "b"])
