"""Early exits of a language model, token by token: what leaves early, what differs, and what the clock says.

    python -m experiments.generation
    python -m experiments.generation --measure --model FOLDER --questions FILE --banking FOLDER [--runs FOLDER]

Writes the page from its kept numbers. With --measure it first trains exits on SmolLM2-135M-Instruct (FOLDER, made by
`python -m experiments.smollm2 FOLDER`) with prompts from FILE, a Parquet file with a column `question`, calibrates by
generating, scores choices on BANKING77, and times everything; two hours of two cores, and nothing else may run while it
times. An interrupted command goes on where it was. `--parts RUN` times the parts of a run of this model anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from experiments.pages import RESULTS, Measurements, kept_numbers, parser, table, write_page

import exeunt as ex
from exeunt._support.text import counted
from exeunt.errors import Infeasible
from exeunt.guarantees.confidence_intervals import mean_interval
from exeunt.policy import Policy
from exeunt.policy.calibration import ALWAYS, NEVER, Thresholds

PAGE = RESULTS / "generation.md"
EXITS = tuple(f"model.layers.{layer - 1}" for layer in (9, 15, 20, 24, 27))
PARTS = {"fit": 150, "calibrate": 600, "test": 150}
N_TRAIN, MOST_TOKENS, LONGEST = 740, 48, 160
LEVELS = (0.01, 0.02, 0.05)
CERTIFIED = (*((level, "token") for level in LEVELS), (0.05, "answer"))
TIMES = ("fixed depth, exit 3", "level per head, 2%", "certified, 2% per token", "certified, 5% per token")
N_QUESTIONS, N_CHOICES = 1_000, 4
PREFILLED, PART_ROUNDS = 64, 201
TIMED, ROUNDS = 8, 2


# -- training and calibrating ------------------------------------------------------------------------------------------


def trained(given: Any) -> Any:
    """Return the language model, trained if need be."""
    from exeunt.data.tokens import load_tokenizer
    from exeunt.torch.language import LanguageModel
    from exeunt.torch.language.prompts import PromptTokens
    from exeunt.torch.language.training import LanguageJob, train_language_model

    prompts = given.runs / "prompts.parquet"
    if not prompts.is_file():
        prompts.parent.mkdir(parents=True, exist_ok=True)
        questions = pq.read_table(given.questions)["question"].to_pylist()
        way = PromptTokens(load_tokenizer(str(given.model)), True, MOST_TOKENS)
        order = np.random.default_rng(0).permutation(len(questions)).tolist()
        short = (questions[i] for i in order if len(way.of([questions[i]]).tokens[0]) <= LONGEST)
        chosen = [text for text, _ in zip(short, range(N_TRAIN + sum(PARTS.values())), strict=False)]
        pq.write_table(pa.table({"text": chosen}), prompts)
    job = LanguageJob(
        model=f"hf:{given.model}",
        data=str(prompts),
        exits=EXITS,
        most_tokens=MOST_TOKENS,
        **PARTS,
    )
    run = train_language_model(job, given.runs / "smollm2", command="python -m experiments.generation")
    return LanguageModel.open(run.path)


def fixed_depth(like: Policy, exit_: int) -> Policy:
    """Return the policy that lets every token leave at an exit."""
    limits = [(NEVER, NEVER)] * exit_ + [(ALWAYS, ALWAYS)] * (like.n_exits - exit_)
    return replace(like, name="fixed depth", limits=Thresholds.of(limits), rates=np.eye(like.n_exits)[exit_])


def level_per_head(like: Policy, fit: ex.ExitTrace, level: float) -> Policy:
    """Return the policy of Valade 2024: of the tokens above each head's threshold, 1 - level agree on the fit part."""
    limits = []
    for exit_ in range(fit.n_exits - 1):
        score = fit.scores["agreement"][:, exit_]
        order = np.argsort(-score)
        agrees = (fit.prediction[:, exit_] == fit.label)[order]
        enough = np.flatnonzero(np.cumsum(agrees) >= (1 - level) * np.arange(1, fit.n + 1))
        limits.append((float(score[order[enough[-1]]]), ALWAYS) if len(enough) else (NEVER, NEVER))
    return replace(like, name="level per head", limits=Thresholds.of([*limits, (ALWAYS, ALWAYS)]))


def policies(model: Any, kept: Measurements) -> dict[str, Policy]:
    """Return the policies by name; certified ones are left out where nothing can be shown."""
    fit = model.run.recorded("fit")
    shape, release, _ = fit.split(fit=0.5, calibrate=0.49, test=0.01)
    like = replace(ex.eero(shape, release, budget="90%", delta=None, score="agreement"), distribution=None)
    found = {f"fixed depth, exit {exit_}": fixed_depth(like, exit_) for exit_ in range(2, len(EXITS))}
    found |= {f"level per head, {level:.0%}": level_per_head(like, fit, level) for level in LEVELS}

    def certified(**asked: Any) -> Any:
        try:
            return model.calibrate(**asked, progress=True).to_dict()
        except Infeasible:
            return None

    for level, per in CERTIFIED:
        name = f"certified, {level:.0%} per {per}"
        made = kept.of(name, measure=lambda a=1 - level, p=per: certified(agree=a, per=p))
        if made is not None:
            found[name] = Policy.from_dict(made)
    return found


# -- measuring ---------------------------------------------------------------------------------------------------------


def of_exits(model: Any) -> dict[str, Any]:
    """Return, per exit, agreement with the full network on the test part, and what may leave at 98% agreement."""
    trace = model.run.recorded("test")
    agrees = trace.prediction == trace.label[:, None]
    exits = range(trace.n_exits - 1)
    may_leave = [share_that_leaves(trace.scores["agreement"][:, k], agrees[:, k]) for k in exits]
    return {
        "tokens": trace.n,
        "agreement": agrees.mean(axis=0).tolist(),
        "may_leave": may_leave,
        "cost": trace.cost.cumulative.tolist(),
    }


def share_that_leaves(score: Any, agrees: Any, level: float = 0.98) -> float:
    """Return the largest share of tokens, surest first, of which this share agrees with the full network."""
    right = np.cumsum(agrees[np.argsort(-score)])
    enough = np.flatnonzero(right >= level * np.arange(1, len(right) + 1))
    return float(enough[-1] + 1) / len(right) if len(enough) else 0.0


def exit_states(model: Any) -> Iterator[tuple[list[Any], Any]]:
    """Yield, of each test answer, hidden states (t, d) at each exit, and the tokens that the full network chooses."""
    import torch

    from exeunt.runs.run_inputs import part_data

    network = model.network
    prompts = model.prompts.of_data(part_data(model.run, "test")).tokens
    for prompt, answer in zip(prompts, model.answers_of("test", None), strict=True):
        text = torch.tensor([[*prompt, *answer.tokens]])
        counted = torch.zeros_like(text, dtype=torch.bool)
        counted[0, len(prompt) - 1 : -1] = True
        reduced, final = network.states(counted, input_ids=text, attention_mask=torch.ones_like(text))
        yield reduced, network.decoder.logits(final).argmax(-1)


def by_largest_probability(model: Any) -> list[float]:
    """Return, per exit, what may leave at 98% agreement by the largest probability that its head gives to a token.

    To know it takes the vocabulary layer for every token, which costs as much as several layers.
    """
    import torch

    score, agrees = [[] for _ in EXITS], [[] for _ in EXITS]
    with torch.inference_mode():
        for reduced, chosen in exit_states(model):
            for exit_, hidden in enumerate(reduced):
                sure, said = model.network.logits(exit_, hidden).softmax(-1).max(-1)
                score[exit_].append(sure.numpy())
                agrees[exit_].append((said == chosen).numpy())
    return [share_that_leaves(*map(np.concatenate, pair)) for pair in zip(score, agrees, strict=True)]


def of_policy(model: Any, policy: Policy | None) -> dict[str, Any]:
    """Return what a policy does to the test prompts."""
    from exeunt.torch.language.summary import summarise

    found = model.answers_of("test", policy, progress=True)
    about = summarise(model.network, found)
    about["tokens_interval"] = mean_interval(np.array([np.mean(one.differs) for one in found]))
    about["cost_share"] = about["cost"] / model.network.cost.full
    return about


def of_choices(model: Any, banking: Path) -> dict[str, Any]:
    """Return how exits score four topics of a customer's message, one of them right."""
    from exeunt.data import open_source

    source = open_source(banking)
    data, names = source.dataset("test"), [name.replace("_", " ") for name in source.class_names or ()]
    rng = np.random.default_rng(0)
    questions, label = [], []
    for i in rng.permutation(len(data))[:N_QUESTIONS].tolist():
        right = int(data.labels[i])
        four = [
            right,
            *rng.choice(np.delete(np.arange(len(names)), right), N_CHOICES - 1, replace=False).tolist(),
        ]
        order = rng.permutation(N_CHOICES).tolist()
        prompt = f'A customer of a bank writes: "{data.content(i)}"\nWhat is it about?'
        questions.append((prompt, *(names[four[k]] for k in order)))
        label.append(order.index(0))
    bare = model.score(questions)
    trace, right = bare.with_reference(), bare.prediction == np.array(label)[:, None]
    fit, calibrate, test = trace.split(fit=0.3, calibrate=0.4, test=0.3)
    rows = np.flatnonzero(np.isin(trace.id, test.id))
    policies = {}
    for agree in (0.9, 0.95):
        try:
            policy = ex.cheapest(fit, calibrate, agree=agree, delta=0.1)
        except Infeasible:
            continue
        result = ex.evaluate(policy, test)
        said = policy.answers(trace)[rows]
        policies[f"{agree:.0%}"] = {
            "agreement": result.accuracy, "cost": result.cost / trace.cost.full,
            "accuracy": float(np.mean(said == np.array(label)[rows])),
        }  # fmt: skip
    return {
        "agreement": (1 - trace.risk).tolist(),
        "accuracy": right.mean(axis=0).tolist(),
        "cost": trace.cost.cumulative.tolist(),
        "policies": policies,
        "full_accuracy": float(right[rows, -1].mean()),
    }


def timed(model: Any, found: dict[str, Policy]) -> dict[str, Any]:
    """Return seconds per prompt of everything, at batch 1 and all together, in turns; and of the first token alone."""
    import torch

    from exeunt.runs.run_inputs import part_data

    data = part_data(model.run, "test")
    texts = [data.content(i) for i in range(TIMED)]
    tokens = [torch.tensor([prompt]) for prompt in model.prompts.of(texts).tokens]
    library, ends = model.network.backbone, model.prompts.ends
    plain: dict[str, Any] = {"do_sample": False, "eos_token_id": [*ends], "pad_token_id": ends[0]}

    def ours(policy: Policy | None, batch: int, most: int) -> Callable[[], Any]:
        how = {"batch_size": batch, "most_tokens": most, "full": policy is None, "policy": policy}
        return lambda: model.generate(texts, **how)

    def theirs(most: int = MOST_TOKENS, **more: Any) -> Callable[[], Any]:
        return lambda: [library.generate(one, max_new_tokens=most, **plain, **more) for one in tokens]

    ways: dict[str, Callable[[], Any]] = {}
    for most, suffix in ((MOST_TOKENS, ""), (1, ", first token")):
        for name, policy in {"full network": None, **found}.items():
            ways[f"{name}{suffix}"] = ours(policy, 1, most)
        ways[f"transformers{suffix}"] = theirs(most)
    for name, policy in {"full network": None, **found}.items():
        ways[f"{name}, batch 8"] = ours(policy, TIMED, MOST_TOKENS)
    ways["transformers, prompt lookup"] = theirs(prompt_lookup_num_tokens=3)
    ways["transformers, assistant_early_exit=24"] = theirs(assistant_early_exit=24)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, run in ways.items():
            started = time.perf_counter()
            with torch.inference_mode():
                run()
            seconds[name].append((time.perf_counter() - started) / TIMED)
            print(f"{name}: {seconds[name][-1]:.2f} s a prompt", flush=True)
    return {
        "threads": torch.get_num_threads(),
        "seconds": {name: float(np.median(x)) for name, x in seconds.items()},
    }


def parts_timed(run: Path) -> dict[str, Any]:
    """Return the milliseconds that a layer, an exit and the vocabulary layer take, for one token and for many at once.

    All layers are run in a row and divided by their number. In turns, the median of many.
    """
    import torch

    from exeunt.torch.language import LanguageModel
    from exeunt.torch.language.decoder import KeyValues

    network = LanguageModel.open(run).network
    decoder, head = network.decoder, network.token_heads[-1]
    n_layers, rows = len(decoder.layers), torch.zeros(1, dtype=torch.int64)
    kept = KeyValues(1, PREFILLED + 1)
    tokens = torch.arange(PREFILLED + 1)[None] % decoder.n_tokens
    embedded = decoder.embed(tokens).detach()

    def layers(start: int, stop: int) -> Any:
        return decoder.run(embedded[:, start:stop], 0, n_layers, rows, torch.arange(start, stop)[None], kept)

    ways: dict[str, tuple[int, Callable[[], Any]]] = {}
    for name, start, stop in (("prefill", 0, PREFILLED), ("decoding", PREFILLED, PREFILLED + 1)):
        states = embedded[0, start:stop]
        ways[f"layer, {name}"] = n_layers * (stop - start), partial(layers, start, stop)
        ways[f"exit, {name}"] = stop - start, partial(lambda x: head.confidence(head(x)), states)
        ways[f"vocabulary layer, {name}"] = (
            stop - start,
            partial(lambda x: decoder.logits(decoder.normed(x)), states),
        )
    found: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for _ in range(PART_ROUNDS):
            for name, (times, of_part) in ways.items():
                started = time.perf_counter()
                of_part()
                found[name].append((time.perf_counter() - started) / times)
    return {
        "threads": torch.get_num_threads(),
        "milliseconds": {name: 1000 * float(np.median(x)) for name, x in found.items()},
    }


def measure(given: Any) -> dict[str, Any]:
    """Return all numbers of the page."""
    model, kept = trained(given), Measurements(given.runs / "generation.jsonl")
    found = policies(model, kept)
    shown = {
        name: one
        for name, one in found.items()
        if name.startswith(("certified", "level")) or "exit 3" in name
    }
    return {
        "exits": of_exits(model),
        "by_largest": kept.of("largest probability", measure=lambda: by_largest_probability(model)),
        "policies": {
            name: kept.of("test", name, measure=lambda one=one: of_policy(model, one))
            for name, one in {"full network": None, **found}.items()
        },
        "certificates": {
            name: {"measured": one.loss_certificate.loss, "prompts": one.loss_certificate.n_groups}
            for name, one in found.items()
            if one.loss_certificate is not None
        },
        "choices": kept.of("choices", measure=lambda: of_choices(model, given.banking)),
        "time": kept.of("time", measure=lambda: timed(model, shown)),
        "parts": parts_timed(model.run.path),
        "training": {
            "learned_tokens": model.run.manifest["training"]["tokens"],
            "vocabulary": model.network.macs.vocabulary,
            "layer": float(model.network.macs.layers.sum()) / len(model.network.decoder.layers),
            "adapter": model.network.macs.adapter,
        },
    }


# -- the page ----------------------------------------------------------------------------------------------------------


def page(found: dict[str, Any]) -> str:
    exits, seconds = found["exits"], found["time"]["seconds"]
    by_exit = [
        [exit_, EXITS[exit_].rpartition(".")[2], f"{exits['cost'][exit_] / exits['cost'][-1]:.1%}",
         f"{exits['agreement'][exit_]:.3f}", f"{exits['may_leave'][exit_]:.3f}", f"{found['by_largest'][exit_]:.3f}"]
        for exit_ in range(len(EXITS))
    ]  # fmt: skip
    by_policy = [
        [name, f"{one['tokens_differ']:.2%} ({low:.2%} to {high:.2%})", f"{one['answers_differ']:.1%}",
         f"{1 - one['shares'][-1]:.1%}", f"{one['cost_share']:.1%}", f"{one['spent']:.1%}"]
        for name, one in found["policies"].items()
        for _, low, high in [one["tokens_interval"]]
    ]  # fmt: skip
    training = found["training"]
    about = (
        f"SmolLM2-135M-Instruct, 30 layers, greedy answers of at most {MOST_TOKENS} tokens to questions of "
        f"LLMRouter's benchmark (MIT licence), put into the model's chat template. {N_TRAIN} questions train exits, "
        f"adapters on {training['learned_tokens']:,} tokens; {PARTS['fit']} fit, {PARTS['calibrate']} calibrate and "
        f"{PARTS['test']} test. A layer costs {training['layer'] / 1e6:.1f} million multiply-adds a token, the "
        f"vocabulary layer {training['vocabulary'] / 1e6:.1f}, an adapter {training['adapter'] / 1e6:.2f}."
    )
    said = (
        f"On the {exits['tokens']:,} tokens of the test answers: the share of tokens that are the full network's, and "
        "the share that may leave there at 98% agreement, surest first: by the exit's own confidence, which is cheap, "
        "and by the largest probability of its head, for which every token pays the vocabulary layer."
    )
    differ = (
        "`level per head` is the protocol of the paper (Valade 2024): each head's threshold lets 1 - level of the fit "
        "tokens that it releases agree. `certified` is `exeunt calibrate --agree`, at delta 5%. Tokens are compared "
        "with what the full network chooses after the same tokens, in the mean over prompts; an answer differs if one "
        "of its tokens does. Costs are shares of the full network's: along the exits that say the tokens, and all "
        "that was really spent, with the layers that were computed later."
    )
    times = (
        f"Medians of {ROUNDS} rounds over {TIMED} prompts, in turns, {counted(found['time']['threads'], 'thread')}, "
        "fp32 in PyTorch. Decoding is what comes after the first token. Ratios are to the full network in the same "
        "loop; above 1 is slower."
    )
    parts = found["parts"]["milliseconds"]
    by_part = [
        [
            name,
            f"{training[key] / 1e6:.2f}",
            *(f"{parts[f'{name}, {when}']:.3f}" for when in ("decoding", "prefill")),
        ]
        for name, key in (("layer", "layer"), ("exit", "adapter"), ("vocabulary layer", "vocabulary"))
    ]
    of_parts = (
        f"Milliseconds a token, in turns, the median of {PART_ROUNDS}, {counted(found['parts']['threads'], 'thread')}: "
        f"one token after {PREFILLED} others (decoding), and {PREFILLED} at once (prefill). An exit is its adapter and "
        "its confidence; the vocabulary layer is computed for tokens that leave."
    )
    chosen = found["choices"]
    by_choice = [
        [exit_, f"{chosen['cost'][exit_] / chosen['cost'][-1]:.1%}", f"{agreement:.3f}", f"{accuracy:.3f}"]
        for exit_, (agreement, accuracy) in enumerate(
            zip(chosen["agreement"], chosen["accuracy"], strict=True)
        )
    ]
    certified = "; ".join(
        f"`cheapest(agree={name})` answers for {one['cost']:.1%} of the cost, agrees on {one['agreement']:.1%} and is "
        f"right on {one['accuracy']:.1%} of the test questions"
        for name, one in chosen["policies"].items()
    )
    scores = (
        f"{N_QUESTIONS:,} messages of BANKING77 and {N_CHOICES} topics each, one of them right, scored by the "
        "likelihood of the topic after the message. The exits are the same; they learned nothing about the task. "
        f"Agreement is with the full network, which is right on {chosen['full_accuracy']:.1%} of the test questions. "
        f"At delta 10%: {certified or 'nothing can be certified'}."
    )
    names = [
        "tokens that differ (95%)",
        "answers that differ",
        "leave early",
        "cost along exits",
        "multiply-adds spent",
    ]
    return "\n\n".join([
        "# A language model with exits, token by token",
        "Made by `python -m experiments.generation`; numbers in [generation.json](generation.json).",
        about,
        "## What exits say after the same tokens",
        said,
        table(["exit", "after layer", "cost", "agreement", "may leave", "by the largest probability"], by_exit),
        "## What differs in answers that are really generated",
        differ,
        table(["policy", *names], by_policy),
        "## Scoring choices",
        scores,
        table(["exit", "cost", "agreement", "accuracy"], by_choice),
        "## What the parts cost",
        of_parts,
        table(["part", "million multiply-adds", "decoding", "prefill"], by_part),
        "## On the clock",
        times,
        table(["what", "prefill and first token", "decoding", "all", "batch 8"], list(clock(seconds))),
    ])  # fmt: skip


def clock(seconds: dict[str, float]) -> Iterator[list[str]]:
    """Yield the rows of the table of times."""
    whole, first = seconds["full network"], seconds["full network, first token"]
    for name, taken in seconds.items():
        if name.endswith((", first token", ", batch 8")):
            continue
        own_first, batched = seconds.get(f"{name}, first token"), seconds.get(f"{name}, batch 8")
        yield [
            name,
            "" if own_first is None else f"{own_first / first:.2f}",
            "" if own_first is None else f"{(taken - own_first) / (whole - first):.2f}",
            f"{taken / whole:.2f} ({taken:.2f} s)",
            "" if batched is None else f"{batched / seconds['full network, batch 8']:.2f} ({batched:.2f} s)",
        ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", action="store_true")
    options.add_argument("--model", type=Path, help="folder of SmolLM2")
    options.add_argument("--questions", type=Path, help="Parquet file with a column `question`")
    options.add_argument("--banking", type=Path, help="folder of BANKING77")
    options.add_argument("--parts", type=Path, metavar="RUN", help="time the parts of this run anew")
    options.add_argument("--runs", type=Path, default=Path("runs/generation"))
    given = options.parse_args()
    found = measure(given) if given.measure else kept_numbers(PAGE)
    if given.parts is not None:
        found["parts"] = parts_timed(given.parts)
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
