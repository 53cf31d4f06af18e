"""An answer does not depend on how far a text was padded: alone, or among longer ones."""

from __future__ import annotations

import pytest
from made_texts import LONGEST, batch, check_batching, network, policy, some, texts

import exeunt as ex
from exeunt.engine.engine import Engine
from exeunt.torch.executor import StagedExecutor, WholeExecutor


@pytest.fixture(scope="module")
def staged():
    return StagedExecutor(network(), some(2, LONGEST))


@pytest.fixture(params=["staged", "whole"])
def executor(request, staged):
    return staged if request.param == "staged" else WholeExecutor(network(), some(2, LONGEST))


def test_a_text_alone_is_answered_as_among_long_ones(executor):
    check_batching(executor)


def test_texts_longer_than_the_network_takes_are_refused(executor):
    said = f"{LONGEST + 1} tokens and the network takes {LONGEST}: truncate"
    with pytest.raises(ex.InputError, match=said):
        Engine(executor, policy()).answer(batch(texts()[:2], LONGEST + 1))


def test_one_cut_serves_every_length(staged):
    first = staged.start(batch(texts()[:2], LONGEST))[0]
    second = staged.start(batch([texts()[0][:3]], 3))[0]
    assert second.staged is first.staged
    assert staged.signature(first) != staged.signature(second)  # rows are joined with those as long
