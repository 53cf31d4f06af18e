"""A language model with exits, to generate with, to score choices with and to calibrate."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from shlex import quote
from time import perf_counter
from typing import Any, get_args

import torch

from exeunt._support.arrays import check_delta
from exeunt._support.files import read_json, write_json
from exeunt._support.sealed_json import content_digest
from exeunt.engine.answers import Answers
from exeunt.engine.inputs import raw_rows
from exeunt.errors import ExeuntError, InputError
from exeunt.policy import Policy
from exeunt.rules.cheapest import checked_loss
from exeunt.runs.folder import RunFolder
from exeunt.runs.kinds.decoder import DECODER
from exeunt.runs.run_inputs import load_preparation, part_data
from exeunt.runs.runner import Runner
from exeunt.torch.devices import best_device, limit_threads
from exeunt.torch.language.calibration import Candidates, Per, differing, graded
from exeunt.torch.language.draft_plan import DecodingTimes, DraftPlan, draft_plan, profiled, recorded_answers
from exeunt.torch.language.drafts import Drafts
from exeunt.torch.language.exits import DecoderWithExits
from exeunt.torch.language.generation import Continuation, continuations
from exeunt.torch.language.prompts import Prompts, PromptTokens, kept
from exeunt.torch.language.scoring import ChoiceExecutor, choice_trace
from exeunt.torch.language.summary import GeneratedText
from exeunt.torch.models.hugging_face import rebuild_decoder
from exeunt.torch.models.weights import load_weights
from exeunt.trace import ExitTrace

_TIMED = 8
"""Fit prompts on which drafts are timed."""


@dataclass(frozen=True)
class LanguageModel:
    """A decoder with trained exits, of the run folder that `exeunt train --task generate` made."""

    run: RunFolder
    network: DecoderWithExits
    prompts: PromptTokens

    @classmethod
    def open(cls, path: str | Path) -> LanguageModel:
        """Open a run folder: "RUN@80%" is RUN with its policy for this budget.

        Raises InputError if there is none, or it holds no decoder; ArtefactError if it is damaged.
        """
        return cls.of(RunFolder.open(path))

    @classmethod
    def of(cls, run: RunFolder) -> LanguageModel:
        """Open the network of a run folder. Raises as `open` does."""
        weights = run.network_file(DECODER)
        limit_threads()
        run.files.check_folder("model")
        about = run.manifest["inputs"]
        model = rebuild_decoder(run.path / "model")
        network = DecoderWithExits(model, **run.manifest["network"])
        load_weights(network, weights)
        way = PromptTokens(
            load_preparation(run),
            about["chat"],
            about["most_tokens"],
            network.decoder.context,
            tuple(about["ends"]),
        )
        return cls(run, network.to(best_device()).eval(), way)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        budget: float | str | None = None,
        policy: Policy | None = None,
        full: bool = False,
        most_tokens: int | None = None,
        batch_size: int = 16,
        compare: bool = False,
        exact: bool | Drafts = False,
        name: Callable[[int], str] = "prompt {}".format,
        keep: Path | None = None,
        progress: bool = False,
    ) -> list[GeneratedText]:
        """Answer prompts greedily, in batches in which sequences leave at different depths.

        `budget`: the run's policy that keeps it; `policy`: another one; by default the run's own.
        `full`: the full network answers, without exits. `most_tokens`: of an answer; by default what was calibrated
        for. `compare`: also find what the full network would say after the same tokens. `exact`: answer as the full
        network, which checks what was drafted, as `draft_plan` says; or by these drafts and the policy, with `full` by
        prompt lookup alone. `name`: what errors call the i-th prompt. `keep`: a file that gets the answers as they
        come, from which the same call goes on.
        Raises InputError before calibration, and for a prompt that is too long or has no tokens.
        """
        if sum((full, policy is not None, budget is not None)) > 1:
            raise InputError("give one of budget, policy and full")
        if exact is True:
            if full or policy is not None or budget is not None:
                raise InputError("exact=True drafts by draft_plan: leave out budget, policy and full")
            plan = self.draft_plan(batch_size=batch_size)
            exact, policy, full = plan.drafts or False, plan.policy, plan.policy is None
        if policy is not None:
            if not isinstance(policy, Policy):
                raise InputError(f"policy must be one that `calibrate` returned, got {policy!r}")
            self.run.check_policy(policy)
        elif not full:
            policy = self._policy(budget)
        way = self.prompts if most_tokens is None else replace(self.prompts, most_tokens=most_tokens)
        found = self._answers(
            way.of(prompts, name),
            policy,
            way,
            keep,
            batch_size=batch_size,
            compare=compare,
            exact=exact or None,
            progress=progress,
        )
        cost = self.network.cost
        along = [cost.full if exact else cost.cumulative[one.exits].mean() for one in found]
        return [
            GeneratedText(way.text(one.tokens), one, float(paid))
            for one, paid in zip(found, along, strict=True)
        ]

    def draft_plan(self, *, batch_size: int = 16) -> DraftPlan:
        """Return how exact answers are drafted, by what is recorded of the fit prompts and by timing on this machine.

        It is kept in the run folder, for each size of batches. Raises as `Dataset` does where the run's data is gone.
        """
        device = str(self.network.decoder.device)
        about = [self.run.digest, batch_size, device, torch.get_num_threads(), platform.node()]
        file = self.run.path / "training" / f"drafts-{content_digest(about)[:16]}.json"
        if file.is_file():
            with suppress(ExeuntError, KeyError, TypeError):  # what is damaged is made again
                return DraftPlan.from_dict(read_json(file))
        fit: Any = self.run.recorded("fit")
        prompts = self._part("fit")
        recorded = recorded_answers(fit, prompts, Candidates.made(fit))
        few = replace(prompts, tokens=prompts.tokens[:_TIMED], keys=prompts.keys[:_TIMED])

        def timed(drafts: Drafts | None, policy: Policy | None) -> float:
            start = perf_counter()
            self._answers(
                few,
                policy,
                self.prompts,
                None,
                batch_size=batch_size,
                compare=False,
                exact=drafts,
                progress=False,
            )
            return perf_counter() - start

        plan = draft_plan(profiled(DecodingTimes.measured(self.network, batch_size), *recorded), timed)
        write_json(file, plan.to_dict())
        return plan

    def answers_of(self, part: str, policy: Policy | None, *, progress: bool = False) -> list[Continuation]:
        """Return the answers to the prompts of a part, compared with the full network's, and kept in the run folder.

        `policy`: None for the full network.
        """
        return self._answers_kept(part, self._part(part), policy, progress)

    def _part(self, part: str) -> Prompts:
        return self.prompts.of_data(part_data(self.run, part))

    def _answers_kept(
        self, part: str, prompts: Prompts, policy: Policy | None, progress: bool
    ) -> list[Continuation]:
        folder = self.run.path / "training"
        about = None if policy is None else replace(policy, notes={}).to_dict()
        file = folder / f"answers-{part}-{content_digest(about)[:16]}.jsonl"
        return self._answers(prompts, policy, self.prompts, file, compare=True, progress=progress)

    def calibrate(
        self,
        *,
        agree: float | None = None,
        per: Per = "token",
        grade: Callable[[str, str], float] | None = None,
        max_loss: float | None = None,
        budget: float | str | None = None,
        delta: float = 0.05,
        policy: str = "auto",
        points: int = 20,
        seed: int = 0,
        progress: bool = False,
    ) -> Policy:
        """Return the cheapest policy with these guarantees, by answering the run's calibration prompts.

        `agree`: the share of tokens that are those of the full network after the same tokens, in the mean over prompts;
        or with `per` "answer" the share of prompts whose whole answer is. Or `max_loss`: of a `grade` in [0, 1] of
        (prompt, answer), against the full network's answers. `budget`: mean cost of a token, along the exits that say
        them. `delta`: the largest probability with which this may be broken. `policy`, `points`: what is tried, see
        `Candidates`. Answers are kept in the run folder: an interrupted call goes on where it was.
        Raises Infeasible where nothing can be shown, InputError for options that contradict each other.
        """
        if (grade is None) != (max_loss is None) or (agree is not None and grade is not None):
            raise InputError("give agree=..., or both grade=... and max_loss=..., not all of them")
        loss_allowed = None if agree is None and max_loss is None else checked_loss(max_loss, agree)
        if loss_allowed is None and budget is None:
            raise InputError("give what shall be kept: agree=0.98, a grade with a max_loss, or a budget")
        check_delta(delta)
        if points < 1:
            raise InputError(f"points must be at least 1, got {points}")
        if per not in get_args(Per):
            raise InputError(f"per must be one of {', '.join(get_args(Per))}, got {per!r}")
        fit: Any = self.run.recorded("fit")
        candidates = Candidates.made(fit, policy=policy, points=points, per=per, seed=seed)

        prompts = self._part("calibrate")

        def generate(one: Policy | None) -> list[Continuation]:
            return self._answers_kept("calibrate", prompts, one, progress)

        loss, measure = differing(per), "agreement"
        if grade is not None:
            loss, measure = graded(prompts.texts, grade, self.prompts.text, generate(None)), "grade"
        return candidates.certified(
            generate,
            len(prompts),
            loss=loss,
            measure=measure,
            of=f"{per}s",
            max_loss=loss_allowed,
            budget=None if budget is None else self.network.cost.budget(budget),
            delta=delta,
            seed=seed,
        )

    def score(self, questions: Sequence[tuple[str, ...]], *, batch_size: int = 8) -> ExitTrace:
        """Return the trace of questions (prompt, choice, ..., choice), to make policies from, see `choice_trace`."""
        return choice_trace(self.network, self.prompts, questions, batch_size=batch_size)

    def choose(self, questions: Sequence[tuple[str, ...]], policy: Policy) -> Answers:
        """Return the likeliest choice of each question, as `label`; each leaves where the policy says."""
        k = len(questions[0]) - 1 if questions else 2
        return Runner(ChoiceExecutor(self.network, self.prompts, k), policy)(raw_rows(questions))

    def _policy(self, budget: float | str | None) -> Policy:
        """Return the run's policy, or the one of its policies that keeps a budget."""
        if budget is None:
            return self.run.policy
        if self.run.has_policy_set:
            return self.run.policy_set.at(budget)
        policy, asked = self.run.policy, self.network.cost.budget(budget)
        if policy.limit is None or policy.limit > asked * (1 + 1e-12):
            keeps = "no budget" if policy.limit is None else f"a budget of {policy.cost.show(policy.limit)}"
            raise InputError(
                f"the policy of {self.run.path} keeps {keeps}, and {policy.cost.show(asked)} was asked for: run "
                f"`exeunt calibrate {quote(str(self.run.path))} --budgets` with this one among them"
            )
        return policy

    def _answers(
        self,
        prompts: Prompts,
        policy: Policy | None,
        way: PromptTokens,
        keep: Path | None,
        *,
        progress: bool,
        **options: Any,
    ) -> list[Continuation]:
        """Return the answers to prompts; with `keep`, each is written there as it comes and not made again."""

        def missing(numbers: list[int]) -> Iterator[tuple[int, Any]]:
            fresh = continuations(
                self.network,
                [prompts.tokens[i] for i in numbers],
                prompts.keys[numbers],
                policy,
                most_tokens=way.most_tokens,
                ends=way.ends,
                **options,
            )
            return ((numbers[i], [*astuple(continuation)]) for i, continuation in fresh)

        by = None if policy is None else policy.to_dict()
        # Not the size of batches, which changes roundings alone: memory may call for smaller ones.
        drafts = options.get("exact")
        about = [options["compare"], *([] if drafts is None else [asdict(drafts)])]
        job = content_digest([self.run.digest, prompts.tokens, by, way.job, *about])
        stored = kept(keep, job, len(prompts), missing, what="answers", show=progress)
        return [Continuation(*fields) for fields in stored]
