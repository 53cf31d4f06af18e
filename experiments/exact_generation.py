"""Exact answers of a language model: what exits and prompt lookup draft right, and what the clock says.

    python -m experiments.exact_generation
    python -m experiments.exact_generation --measure --model FOLDER --questions FILE [--runs FOLDER]

Writes the page from its kept numbers. With --measure it first trains the exits of `python -m experiments.generation`,
with the same options, then drafts and times; nothing else may run while it times. An interrupted command goes on where
it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from experiments.generation import EXITS, MOST_TOKENS, exit_states, fixed_depth, share_that_leaves, trained
from experiments.pages import RESULTS, Measurements, kept_numbers, parser, table, write_page
from scipy.optimize import brentq

import exeunt as ex
from exeunt._support.text import counted

PAGE = RESULTS / "exact-generation.md"
LENGTHS, LOOKUPS = (1, 2, 4, 8), (2, 4, 8, 16)
DRAFTED, TIMED, ROUNDS = 12, 12, 3
_HIDDEN = 4 / 3  # units of an adapter, per unit of the decoder


def measure(given: Any) -> dict[str, Any]:
    """Return all numbers of the page."""
    import torch

    from exeunt.torch.language import Drafts
    from exeunt.torch.language.calibration import Candidates
    from exeunt.torch.language.draft_plan import DecodingTimes, profiled, recorded_answers

    model, kept = trained(given), Measurements(given.runs / "exact-generation.jsonl")
    fit = model.run.recorded("fit")
    texts = _texts(model, max(DRAFTED, TIMED))
    shape, release, _ = fit.split(fit=0.5, calibrate=0.49, test=0.01)
    like = ex.eero(shape, release, budget="90%", delta=None, score="agreement")

    def drafted(policy: Any, drafts: Drafts) -> dict[str, float]:
        answers = [
            one.continuation
            for one in model.generate(
                texts[:DRAFTED], policy=policy, full=policy is None, exact=drafts, batch_size=1
            )
        ]
        n_tokens, macs = sum(len(one.tokens) for one in answers), model.network.macs
        full = macs.layers.sum() * (n_tokens - len(answers)) + macs.vocabulary * n_tokens
        return {
            "drafted": sum(one.drafted for one in answers) / n_tokens,
            "accepted": sum(one.accepted for one in answers) / max(sum(one.drafted for one in answers), 1),
            "macs": float(sum(one.macs for one in answers) / full),
        }

    by_depth = {
        f"exit {exit_}, {length}": kept.of(
            "depth", exit_, length, measure=lambda e=exit_, n=length: drafted(fixed_depth(like, e), Drafts(n))
        )
        for exit_ in range(len(EXITS))
        for length in LENGTHS
    }
    by_lookup = {
        str(lookup): kept.of("lookup", lookup, measure=lambda n=lookup: drafted(None, Drafts(lookup=n)))
        for lookup in LOOKUPS
    }
    recorded = recorded_answers(fit, model._part("fit"), Candidates.made(fit))
    times = DecodingTimes.measured(model.network, 1)
    best = profiled(times, *recorded)
    plan = model.draft_plan(batch_size=1)
    ways: dict[str, Callable[[], Any]] = {
        "plain decoding": lambda: model.generate(texts[:TIMED], full=True, batch_size=1)
    }
    for lookup in LOOKUPS:
        ways[f"lookup, {lookup} tokens"] = lambda n=lookup: model.generate(
            texts[:TIMED], full=True, exact=Drafts(lookup=n), batch_size=1
        )
    for name in ("exits", "exits and lookup"):
        one = best[name]
        ways[f"{name}, {one.drafts.length} and {one.drafts.lookup} tokens"] = lambda one=one: model.generate(
            texts[:TIMED], policy=one.policy, exact=one.drafts, batch_size=1
        )
    ways["as the plan says"] = lambda: model.generate(texts[:TIMED], exact=True, batch_size=1)
    ways |= _of_transformers(model, texts[:TIMED])
    return {
        "confidences": kept.of("confidences", measure=lambda: by_confidence(model)),
        "depth": by_depth,
        "lookup": by_lookup,
        "profile": {
            name: {
                "seconds": one.seconds,
                "accepted": one.accepted,
                "length": one.drafts.length,
                "lookup": one.drafts.lookup,
            }
            for name, one in best.items()
        },
        "blocks": {
            "tokens": times.blocks.tolist(),
            "layers": times.layers.sum(axis=1).tolist(),
            "vocabulary": times.vocabulary.tolist(),
            "head": times.head,
            "confidence": times.confidence,
        },
        "plan": str(plan),
        "same": kept.of("same", measure=lambda: _same(model, texts, best)),
        "threads": torch.get_num_threads(),
        "seconds": _timed(ways),
    }


def by_confidence(model: Any) -> dict[str, list[tuple[float, float]]]:
    """Return, per exit, what may leave at 98% agreement by each confidence, and what a token then costs.

    The probe reads the hidden state; the others take the vocabulary layer for every token, which costs as much as
    several layers. Costs are of a network with this one exit, as shares of the full network's.
    """
    import torch

    network, names = model.network, ("probe", "largest probability", "margin", "entropy")
    scores: list[dict[str, list[Any]]] = [{name: [] for name in names} for _ in EXITS]
    agrees = [list[Any]() for _ in EXITS]
    with torch.inference_mode():
        for reduced, chosen in exit_states(model):
            for exit_, hidden in enumerate(reduced):
                chances = network.logits(exit_, hidden).softmax(-1)
                largest = chances.topk(2)
                by_name = (
                    network.token_heads[exit_].confidence(hidden),
                    largest.values[:, 0],
                    largest.values[:, 0] - largest.values[:, 1],
                    torch.special.entr(chances).sum(-1).neg(),
                )
                for name, score in zip(names, by_name, strict=True):
                    scores[exit_][name].append(score.numpy())
                agrees[exit_].append((largest.indices[:, 0] == chosen).numpy())
    macs, found = network.macs, dict[str, list[tuple[float, float]]]()
    until = np.cumsum(macs.layers)
    for name in names:
        leaves = [
            share_that_leaves(np.concatenate(one[name]), np.concatenate(right))
            for one, right in zip(scores, agrees, strict=True)
        ]
        costs = []
        for exit_, share in enumerate(leaves):
            head = macs.adapter + macs.vocabulary
            early = macs.confidence + share * head if name == "probe" else head
            costs.append(until[exit_] + early + (1 - share) * (until[-1] - until[exit_] + macs.vocabulary))
        found[name] = [
            (share, float(cost / (until[-1] + macs.vocabulary)))
            for share, cost in zip(leaves, costs, strict=True)
        ]
    return found


def _texts(model: Any, n: int) -> list[str]:
    from exeunt.runs.run_inputs import part_data

    data = part_data(model.run, "test")
    return [data.content(i) for i in range(n)]


def _of_transformers(model: Any, texts: list[str]) -> dict[str, Callable[[], Any]]:
    import torch

    ends, library = model.prompts.ends, model.network.backbone
    plain = {
        "do_sample": False,
        "eos_token_id": [*ends],
        "pad_token_id": ends[0],
        "max_new_tokens": MOST_TOKENS,
    }
    tokens = [torch.tensor([prompt]) for prompt in model.prompts.of(texts).tokens]
    return {
        "transformers, plain": lambda: [library.generate(one, **plain) for one in tokens],
        "transformers, prompt lookup": lambda: [
            library.generate(one, prompt_lookup_num_tokens=8, **plain) for one in tokens
        ],
    }


def _same(model: Any, texts: list[str], best: Any) -> dict[str, int]:
    """Return how many of the answers are those of plain decoding, token for token."""
    own = [one.continuation.tokens for one in model.generate(texts, full=True, batch_size=1)]
    same = {"answers": len(texts)}
    for name in ("lookup", "exits", "exits and lookup"):
        one = best[name]
        how = {"policy": one.policy, "full": one.policy is None, "exact": one.drafts, "batch_size": 1}
        same[name] = sum(
            a.continuation.tokens == b for a, b in zip(model.generate(texts, **how), own, strict=True)
        )
    return same


def _timed(ways: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Return the seconds of each way in every round, in turns."""
    import torch

    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, run in ways.items():
            started = time.perf_counter()
            with torch.inference_mode():
                run()
            found[name].append((time.perf_counter() - started) / TIMED)
            print(f"{name}: {found[name][-1]:.2f} s a prompt", flush=True)
    return found


def page(found: dict[str, Any]) -> str:
    """Return the page's text."""
    seconds = {name: np.array(one) for name, one in found["seconds"].items()}
    plain, same, blocks = seconds["plain decoding"], found["same"], found["blocks"]
    exact = ", ".join(f"{n} with {name}" for name, n in same.items() if name != "answers")
    about = (
        "SmolLM2-135M-Instruct and the exits and questions of [the page on generation](generation.md); greedy answers "
        f"of at most {MOST_TOKENS} tokens to {DRAFTED} test questions, one at a time, fp32 in PyTorch, "
        f"{counted(found['threads'], 'thread')}. The full network checks every draft. Of {same['answers']} answers, "
        f"token for token those of plain decoding: {exact}; rounding differs between blocks of different length."
    )
    sure = (
        "The share of test tokens that may leave at 98% agreement, surest first, and what a token then costs in a "
        "network with this one exit, as a share of the full network's. The probe is the exits' own confidence: it "
        "reads the hidden state. Largest probability, margin (the largest less the second) and entropy are of the "
        "head's probabilities, for which every token pays the vocabulary layer."
    )
    confidences = [
        [exit_, name.rpartition(".")[2], *(f"{share:.3f} ({cost:.1%})" for share, cost in one)]
        for exit_, (name, one) in enumerate(
            zip(EXITS, zip(*found["confidences"].values(), strict=True), strict=True)
        )
    ]
    drafted = (
        "Every token is drafted at one exit, until so many tokens have been drafted in a row (the columns): the share "
        "of drafts that the full network accepts, and the multiply-adds of the answers as shares of plain decoding's."
    )
    depth = []
    for exit_, name in enumerate(EXITS):
        of_exit = [found["depth"][f"exit {exit_}, {n}"] for n in LENGTHS]
        shares = [f"{one['accepted']:.1%}" for one in of_exit]
        depth.append([exit_, name.rpartition(".")[2], *shares, *(f"{one['macs']:.0%}" for one in of_exit)])
    columns = [*(f"accepted, {n}" for n in LENGTHS), *(f"multiply-adds, {n}" for n in LENGTHS)]
    lookup = [
        [n, f"{one['drafted']:.2f}", f"{one['accepted']:.1%}", f"{one['macs']:.0%}"]
        for n, one in found["lookup"].items()
    ]
    of_blocks = (
        "Milliseconds of all layers and of the vocabulary layer on a block of tokens. An early exit's adapter and "
        f"vocabulary layer take {1000 * blocks['head']:.1f}, a confidence {1000 * blocks['confidence']:.2f}."
    )
    block_rows = [
        [tokens, *(f"{1000 * value:.1f}" for value in values)]
        for tokens, *values in zip(blocks["tokens"], blocks["layers"], blocks["vocabulary"], strict=True)
    ]
    expected = (
        "On the fit questions, of the policies and lengths that `draft_plan` tries, the quickest of each kind; times "
        "are shares of plain decoding's."
    )
    kinds = []
    for name, one in found["profile"].items():
        accepted = "" if name == "plain" else f"{one['accepted']:.1%}"
        share = f"{one['seconds'] / found['profile']['plain']['seconds']:.1%}"
        kinds.append([name, one["length"] if "exits" in name else "", one["lookup"] or "", accepted, share])
    clock = []
    for name, one in seconds.items():
        ratio = one / plain
        between = f"{ratio.min():.3f} to {ratio.max():.3f}"
        clock.append([name, f"{np.median(one):.2f}", f"{np.median(ratio):.3f}", between])
    of_clock = (
        f"Seconds a question, medians of {ROUNDS} rounds in turns over {TIMED} test questions; the ratio to plain "
        "decoding in the same round, its median and range."
    )
    larger = (
        "Not measured: from the shapes of layers and vocabulary alone, for one sequence at a time, where a step takes "
        "the time in which its weights are read once. The share of drafts that must be accepted for exits to take "
        f"{TARGET:.0%} of the time of plain decoding, by the depth of the exit and the tokens drafted in a row."
    )
    return "\n\n".join([
        "# Exact answers of a language model",
        "Made by `python -m experiments.exact_generation`; numbers in [exact-generation.json](exact-generation.json).",
        about,
        "## Which confidence, by what it costs",
        sure,
        table(["exit", "after layer", *found["confidences"]], confidences),
        "## What exits draft",
        drafted,
        table(["exit", "after layer", *columns], depth),
        "## What prompt lookup drafts",
        "What followed the last three tokens, or else the last two, where they came before in question or answer.",
        table(["at most", "drafted per token", "accepted", "multiply-adds"], lookup),
        "## What blocks cost",
        of_blocks,
        table(["tokens", "layers", "vocabulary layer"], block_rows),
        "## What the profile expects",
        expected,
        table(["drafts by", "exits in a row", "lookup", "accepted", "time"], kinds),
        f"`lm.draft_plan()`: {found['plan']}.",
        "## On the clock",
        of_clock,
        table(["way", "seconds", "of plain decoding", "range"], clock),
        "## Larger models, by arithmetic",
        larger,
        arithmetic(),
    ])  # fmt: skip


class Shape(NamedTuple):
    """A decoder: its layers, hidden units, those of the feed-forward part, of keys, and tokens of its vocabulary."""

    layers: int
    width: int
    inner: int
    keys: int
    vocabulary: int

    def share(self, depth: float, length: int, accepted: float) -> float:
        """Return the time of drafting at a depth (a share of the layers), as a share of plain decoding's.

        One sequence at a time, decoding waits for weights: a step takes the time in which those that it uses are read
        once, whatever the number of tokens. Drafts are accepted independently with this probability.
        """
        d = self.width
        layer = 2 * d * d + 2 * d * self.keys + 3 * d * self.inner
        whole, vocabulary = self.layers * layer, self.vocabulary * d
        draft = depth * whole + d * d + _HIDDEN * 2 * d * d + vocabulary
        tokens = sum(accepted**k for k in range(length + 1))
        return (length * draft + whole + d * d + vocabulary) / (tokens * (whole + vocabulary))


SHAPES = {
    "SmolLM2, 135 million": Shape(30, 576, 1536, 192, 49_152),
    "Llama 3.2, 1 billion": Shape(16, 2048, 8192, 512, 128_256),
    "Llama 3.1, 8 billion": Shape(32, 4096, 14_336, 1024, 128_256),
}
DEPTHS, TARGET = (0.25, 0.5, 0.75), 0.95


def acceptance_needed(shape: Shape, depth: float, length: int) -> float | None:
    """Return the least share of accepted drafts with which exits take at most TARGET of the time; None for none."""
    if shape.share(depth, length, 1.0) > TARGET:
        return None
    return float(brentq(lambda accepted: shape.share(depth, length, accepted) - TARGET, 0.0, 1.0))


def arithmetic() -> str:
    """Return the table of what larger models need."""
    rows = []
    for name, shape in SHAPES.items():
        needed = [acceptance_needed(shape, depth, length) for depth in DEPTHS for length in (1, 4)]
        rows.append([name, *("never" if one is None else f"{one:.0%}" for one in needed)])
    return table(["model", *(f"{depth:.0%} of the layers, {n}" for depth in DEPTHS for n in (1, 4))], rows)


def main() -> None:
    """Write the page."""
    options = parser(__doc__)
    options.add_argument(
        "--measure", action="store_true", help="train, draft and time; else the page's numbers are used"
    )
    options.add_argument("--model", type=Path, help="the folder of `python -m experiments.smollm2`")
    options.add_argument("--questions", type=Path, help="a Parquet file with a column `question`")
    options.add_argument(
        "--runs", type=Path, default=Path("runs/generation"), help="where trained exits are kept"
    )
    given = options.parse_args()
    if given.measure and None in (given.model, given.questions):
        raise SystemExit("--measure needs --model and --questions")
    found = measure(given) if given.measure else kept_numbers(PAGE)
    write_page(PAGE, page(found), found if given.measure else None)


if __name__ == "__main__":
    main()
