"""Language models that generate: what `predict`, `calibrate` and `evaluate` do with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from exeunt._support.text import counted, echo, text_table
from exeunt.cli.calibration_options import Guarantee, Rule
from exeunt.cli.options import (
    STANDARD,
    Execution,
    changed,
    column_names,
    interruptible,
    options_under,
    share,
    standard_input,
)
from exeunt.errors import ExeuntError, InputError, require

if TYPE_CHECKING:
    from exeunt.data import Dataset
    from exeunt.policy import Policy
    from exeunt.runs.folder import RunFolder
    from exeunt.torch.language import DecoderWithExits, Drafts, LanguageModel


_generation = options_under("Language models that generate")


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What `exeunt predict` says of a language model that generates."""

    exact: bool | None = _generation(
        "Give the full network's answers: early tokens are drafts, which it checks. --no-exact: answer by the policy. "
        "Default: exact, without --full, --compare and a budget.",
    )
    full: bool = _generation("Let the full network answer, without exits.", default=False)
    compare: bool = _generation(
        "Also say which tokens differ from what the full network chooses after the same tokens.",
        default=False,
    )
    most_tokens: int | None = _generation("Most tokens of an answer. Default: as in training.", min=1)


def generate(
    run: RunFolder, inputs: Any, execution: Execution, output: Any, options: Generation, *groups: Any
) -> None:
    """Answer prompts, token by token; each token leaves at the exit that is sure of it.

    `inputs`, `output`, `groups`: the other options of `exeunt predict`, of which it takes few.
    """
    from exeunt._support.files import check_writable, write_text

    few = replace(inputs, text_column=None, batch_size=None), replace(output, out=STANDARD)
    if others := changed(*few, execution, *groups):
        raise InputError(f"a language model that generates takes no {others}: leave it out")
    data = _prompts(run, inputs)
    out = None if output.prints else Path(output.out)
    if out is not None:
        if out.is_dir():
            raise InputError(f"{out} is a folder: give a file for --out")
        if out.suffix in (".csv", ".parquet"):
            raise InputError(
                f"texts that are generated are written as JSON, one on a line: name a file .jsonl, not {out}"
            )
        check_writable(out.parent, f"cannot write {out}")
    exact = _is_exact(run, options)
    model = _opened(run)
    prompts = [str(data.content(i)) for i in range(len(data))]
    batch_size = inputs.batch_size or 16
    drafts, policy, full = _drafted(model, batch_size) if exact else (None, None, options.full)
    calibrated = model.prompts.most_tokens
    if not exact and not full and options.most_tokens not in (None, calibrated):
        echo(f"note: the policy was calibrated for answers of at most {calibrated} tokens", err=True)
    keep = None if out is None else out.with_name(f".{out.name}.answers")
    with interruptible(
        lambda: f"the same command goes on where it was: {keep} has the answers so far" if keep else ""
    ):
        answers = model.generate(
            prompts,
            full=full,
            policy=policy,
            exact=drafts or False,
            most_tokens=options.most_tokens,
            batch_size=batch_size,
            compare=options.compare,
            name=data.name,
            keep=keep,
            progress=True,
        )
    from exeunt.torch.language.summary import summarise

    lines = []
    for prompt, answer in zip(prompts, answers, strict=True):
        continuation = answer.continuation
        about = {"tokens": len(continuation.tokens), "exits": continuation.exits, "cost": answer.cost}
        differs = (
            {"differs": [i for i, differs in enumerate(continuation.differs) if differs]}
            if options.compare
            else {}
        )
        drafted = (
            {} if drafts is None else {"drafted": continuation.drafted, "accepted": continuation.accepted}
        )
        line = {"prompt": prompt, "answer": answer.text, **about, **differs, **drafted}
        lines.append(json.dumps(line, ensure_ascii=False))
    if out is None:
        echo("\n".join(lines))
    else:
        write_text(out, "".join(f"{line}\n" for line in lines))
        if keep is not None:
            keep.unlink(missing_ok=True)
        echo(f"{counted(len(answers), 'answer')} written to {out}")
    summary = summarise(model.network, [answer.continuation for answer in answers], exact=drafts is not None)
    echo(_shown(model.network, summary), err=out is None)


def _is_exact(run: RunFolder, options: Generation) -> bool:
    """Return whether answers shall be the full network's. Raises InputError where that contradicts other options."""
    otherwise = {
        "--full": options.full,
        "--compare": options.compare,
        f"the budget of {run.path.name}@{run.budget}": run.budget is not None,
    }
    given = [name for name, is_given in otherwise.items() if is_given]
    if options.exact and given:
        raise InputError(f"--exact drafts by a profile of the run: leave out {given[0]}, or --exact")
    return not given if options.exact is None else options.exact


def _drafted(model: LanguageModel, batch_size: int) -> tuple[Drafts | None, Policy | None, bool]:
    """Return how exact answers are drafted, by which policy, and whether by none; and say so."""
    try:
        plan = model.draft_plan(batch_size=batch_size)
    except ExeuntError as error:  # such as a run whose prompts are elsewhere
        echo(f"exact answers by plain decoding: no profile could be made ({error})", err=True)
        return None, None, True
    unused = "; --no-exact answers by the run's policy" if model.run.has_policy else ""
    echo(f"{plan}{unused}", err=True)
    return plan.drafts, plan.policy, plan.policy is None


def _prompts(run: RunFolder, inputs: Any) -> Dataset:
    """Open the prompts. Raises InputError if there are none, or images."""
    from exeunt.data import open_inputs, open_lines

    columns = column_names(inputs.text_column)
    if len(columns) > 1:
        raise InputError(
            f"a prompt is one text: name one column with --text-column, got {inputs.text_column}"
        )
    known = tuple(run.manifest["data"].get("text") or ())
    if inputs.data == STANDARD:
        data: Dataset = open_lines(standard_input(), "text")
    else:
        data = open_inputs(inputs.data, text=columns or known, of_training=not columns)
    if data.kind != "text" or not len(data):
        raise InputError(
            f"{inputs.data} must hold prompts, got {'none' if data.kind == 'text' else 'images'}"
        )
    return data


def calibrate_language_model(
    run: RunFolder, guarantee: Guarantee, rule: Rule, options: Any, execution: Execution
) -> None:
    """Choose thresholds for tokens, by answering the calibration prompts. `options`: those of `exeunt calibrate`."""
    from exeunt.policy import PolicySet

    seed, defaults = options.seed, type(options)
    if others := changed(replace(rule, policy=Rule.policy), replace(options, seed=defaults.seed), execution):
        raise InputError(f"the calibration of a language model takes no {others}")
    amounts: list[str | float | None] = [*guarantee.amounts] or [None]
    wrong = changed(replace(guarantee, budget=None, agree=None, per=Guarantee.per, budgets=None, delta=None))
    if wrong:
        raise InputError(
            f"a language model is calibrated by --agree, --budget or --budgets, got {wrong} (grades of answers are for "
            "Python: LanguageModel.calibrate)"
        )
    if (delta := guarantee.checked_delta(certifies=True)) is None:
        raise InputError("what a language model guarantees is tested: give a --delta")
    model = _opened(run)
    agree = None if guarantee.agree is None else share(guarantee.agree, "--agree", example="98%", or_one=True)
    common: dict[str, Any] = {
        "per": guarantee.per,
        "delta": delta,
        "policy": rule.policy,
        "seed": seed,
        "progress": True,
    }
    with interruptible(lambda: f"{run.path} keeps the answers so far: repeat the command to go on"):
        policies = [model.calibrate(agree=agree, budget=budget, **common) for budget in amounts]
    removed = (
        run.save_policy(policies[0])
        if guarantee.budgets is None
        else run.save_policy_set(PolicySet(tuple(policies)))
    )
    echo("\n\n".join(str(policy) for policy in policies))
    if removed:
        echo(f"\nremoved, because they come from an earlier calibration: {', '.join(removed)}")
    echo(f"\nwritten to {run.path}; next: exeunt evaluate {quote(str(run.path))}")


def evaluate_language_model(run: RunFolder, _options: object) -> None:
    """Answer the test prompts by the policy: how many tokens and answers differ, and what they cost."""
    from exeunt._support.files import write_json
    from exeunt.runs.file_digests import EVALUATION
    from exeunt.runs.saved_policies import named_by_budget
    from exeunt.torch.language.summary import summarise

    model, results = _opened(run), {}
    for name, policy in named_by_budget(model.run.policies).items():
        if len(model.run.policies) > 1:
            echo(f"the policy for {name}:")
        with interruptible(lambda: f"{run.path} keeps the answers so far: repeat the command to go on"):
            answers = model.answers_of("test", policy, progress=True)
        results[name] = summary = summarise(model.network, answers)
        proofs = [
            policy.guarantee,
            *([] if policy.loss_certificate is None else [str(policy.loss_certificate)]),
        ]
        echo("\n".join([_shown(model.network, summary), *proofs, ""]))
    about = next(iter(results.values())) if len(results) == 1 else {"budgets": results}
    write_json(run.path / EVALUATION, about)


def _opened(run: RunFolder) -> LanguageModel:
    require("torch", extra="torch")
    from exeunt.torch.language import LanguageModel

    return LanguageModel.of(run)


def _shown(network: DecoderWithExits, result: Mapping[str, Any]) -> str:
    """Return what `summarise` found, as a table and sentences."""
    cost = network.cost
    rows = [
        [str(exit_), name, cost.show(amount), f"{share:.1%}"]
        for exit_, (name, amount, share) in enumerate(
            zip(
                [*network.exit_names, f"(own {network.answers_with})"],
                cost.cumulative,
                result["shares"],
                strict=True,
            )
        )
    ]
    exact = (
        f"the answers are the full network's; {result['accepted']:,} of {result['drafted']:,} drafts were right. With "
        f"the checks, answers took {result['spent']:.1%} of the full network's multiply-adds, and prompts "
        f"{result['prompt_spent']:.1%}"
        if "drafted" in result
        else ""
    )
    spent = exact or (
        f"mean cost of a token, along its exit: {cost.show(result['cost'])}, {cost.share(result['cost']):.1%} of the "
        f"full network's. With the layers that were computed later, answers took {result['spent']:.1%} of the full "
        f"network's multiply-adds, and prompts {result['prompt_spent']:.1%}"
    )
    lines = [text_table(["exit", "after", "cost of a token", "tokens"], rows), spent]
    if "tokens_differ" in result:
        lines.append(
            f"{result['tokens_differ']:.2%} of the tokens differ from what the full network chooses after the same "
            f"tokens (mean over prompts); {result['answers_differ']:.2%} of the {result['answers']:,} answers have "
            "such a token"
        )
    return "\n".join(lines)
