"""What `exeunt train --task generate` does: from a decoder and texts to a run folder with trained exits and traces.

The decoder itself is the teacher: prompts are continued by it, heads learn what it says about prompts and
continuations, and the fit, calibrate and test parts hold continuations of other prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exeunt._support.files import check_writable, locked, remove_half_written, write_text
from exeunt._support.sealed_json import content_digest
from exeunt._support.text import counted
from exeunt.data import DataSource, SplitPlan, open_source, plan_split
from exeunt.data.columns import NO_LABELS
from exeunt.errors import InputError
from exeunt.runs.file_digests import CONFIG, TRACED
from exeunt.runs.folder import RunFolder
from exeunt.runs.kinds.decoder import DECODER
from exeunt.runs.manifest import provenance
from exeunt.torch.devices import best_device
from exeunt.torch.language.decoder import context_of
from exeunt.torch.language.exits import DecoderWithExits
from exeunt.torch.language.generation import continuations
from exeunt.torch.language.prompts import Prompts, PromptTokens, TokenBatches, kept
from exeunt.torch.language.recording import learn_confidences, token_trace
from exeunt.torch.models.by_name import check_model, save_model_config
from exeunt.torch.models.hugging_face import build_decoder
from exeunt.torch.models.preparation import fit_tokenizer, padding_tokenizer, save_preparation
from exeunt.torch.models.weights import save_weights
from exeunt.torch.training.checkpoint import digest
from exeunt.torch.training.job import TrainingJob, begin_run, refuse_other_run
from exeunt.torch.training.run import PACKAGES, finished_run
from exeunt.torch.training.train import train

PARTS = ("train", *TRACED)
_RECIPE = {"epochs": 8, "optimiser": "adamw", "learning_rate": 2e-3, "weight_decay": 0.1, "batch_size": 256}
_FOR_CONFIDENCES = 0.25
"""The share of the training texts that confidences learn from, and adapters do not: they are surer of their own."""


@dataclass(frozen=True, kw_only=True)
class LanguageJob(TrainingJob):
    """What is asked for, besides what a `TrainingJob` asks. `head`: only `hidden`, the units of an adapter.

    `most_tokens`: of a continuation. `chat`: whether prompts are put into the tokeniser's chat template, by default
    where it has one.
    """

    most_tokens: int = 64
    chat: bool | None = None

    def check(self) -> None:
        """Raise InputError for what cannot be asked of a decoder, and as a `TrainingJob` does."""
        super().check()
        if not self.model.startswith("hf:"):
            raise InputError(f"a decoder is a Hugging Face model (hf:NAME_OR_FOLDER), got {self.model!r}")
        if not self.is_frozen:
            raise InputError(
                f"the exits of a decoder learn in mode 'frozen' alone, got {self.recipe['mode']!r}"
            )
        if wrong := sorted(set(self.head) - {"hidden"}):
            raise InputError(
                f"the heads of a decoder are adapters, which have hidden units alone: leave out {wrong[0]}"
            )
        named = self.exits if isinstance(self.exits, tuple) else ()
        if not (isinstance(self.exits, int) or named) or len({*named}) < len(named):
            raise InputError(f"exits must be a number, or names of layers, each once, got {self.exits!r}")
        if self.most_tokens < 1:
            raise InputError(f"most_tokens must be at least 1, got {self.most_tokens}")


def train_language_model(
    job: LanguageJob,
    out: Path,
    *,
    command: str,
    config: str = "",
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> RunFolder:
    """Train the exits of a decoder into the folder `out`. After a kill, the same call goes on where it was.

    A finished run is opened and returned as it is. Raises InputError if `out` holds another run, or another process
    trains one there; and for data, a tokeniser or a decoder that do not fit.
    """
    check_writable(out, f"cannot make the run folder {out}")
    with locked(out / ".lock", out):
        job.check()
        refuse_other_run(out, job)
        if RunFolder.exists(out):
            return finished_run(out, say)
        return _trained(job, out, command=command, config=config, say=say, progress=progress)


def _trained(
    job: LanguageJob, out: Path, *, command: str, config: str, say: Callable[[str], None], progress: bool
) -> RunFolder:
    source = _prompts_of(job)
    check_model(job.model, None)
    tokenizer = padding_tokenizer(job.model.removeprefix("hf:"))
    chat = bool(tokenizer.chat_template) if job.chat is None else job.chat
    plan = plan_split(
        source,
        fit=job.fit,
        calibrate=job.calibrate,
        test=job.test,
        seed=job.seed,
        pretrained=bool(job.pretrained),
    )
    plan.check_every_part()
    say(f"data: {job.data}\n{plan.describe()}\n")
    model = build_decoder(job.model.removeprefix("hf:"))
    fit_tokenizer(tokenizer, model)
    ends = _ends(model, tokenizer)
    way = PromptTokens(tokenizer, chat, job.most_tokens, context_of(model.config), ends)
    prompts = {part: way.of_data(plan.select(source, part)) for part in PARTS}
    length = round(np.mean([len(token) for token in prompts["train"].tokens]) + job.most_tokens)
    exits: Any = job.exits
    network = DecoderWithExits(
        model.to(best_device()), exits, length=length, seed=job.seed, **job.head
    ).eval()
    say(f"{network.describe()}\n")
    begin_run(
        out, job, {"data_fingerprint": plan.fingerprint, "split_digest": content_digest(plan.to_dict())}
    )
    remove_half_written(out)
    if config:
        write_text(out / CONFIG, config)
    weights = digest(model.state_dict())
    follows = {
        part: _continued(network, way, prompts[part], weights, out / "training" / f"{part}.jsonl", progress)
        for part in PARTS
    }
    texts = [[*prompt, *more] for prompt, more in zip(prompts["train"].tokens, follows["train"], strict=True)]
    n_tokens = _learn(network, texts, job, out, plan.fingerprint, say=say, progress=progress)
    say("recording what every exit says about the continuations of the fit, calibrate and test prompts")
    traces = {
        part: token_trace(network, prompts[part], follows[part], part=part, show=progress) for part in TRACED
    }
    network.to("cpu")
    save_weights(network, out / DECODER)
    save_model_config(job.model, model, out)
    example = {"input_ids": torch.zeros(1, length, dtype=torch.long)}
    about = {
        **_about(job, network, plan, model.config.vocab_size, n_tokens),
        "inputs": {
            **save_preparation(tokenizer, out, example),
            "longest": None,
            "chat": chat,
            "most_tokens": job.most_tokens,
            "ends": ends,
        },
        "provenance": provenance(PACKAGES, command=command, seed=job.seed),
    }
    return RunFolder.create(out, cost=network.cost, traces=traces, about=about, network=DECODER)


def _about(
    job: LanguageJob, network: DecoderWithExits, plan: SplitPlan, vocabulary: int, n_tokens: int
) -> dict[str, Any]:
    """Return what the manifest says of the network, the prompts and the training."""
    return {
        "model": {"spec": job.model, "n_classes": vocabulary, "macs": network.backbone_macs},
        "network": network.config(),
        "class_names": [],
        "data": {
            "name": job.data,
            "label": NO_LABELS,
            "text": list(job.text),
            "calibration_data": job.calibration_data,
            "fingerprint": plan.fingerprint,
            "unlabelled": True,
            "reference": {"exit": network.n_exits - 1, "name": "the full network"},
        },
        "split": plan.to_dict(),
        "training": {**_RECIPE, **job.recipe, "tokens": n_tokens},
    }


def _prompts_of(job: LanguageJob) -> DataSource:
    """Open the data of a job. Raises InputError unless they hold one text for each prompt."""
    source = open_source(
        job.data, label=NO_LABELS, text=job.text, unlabelled=True, calibration_data=job.calibration_data
    )
    if source.kind != "text" or len(job.text) > 1:
        got = "images" if source.kind != "text" else f"the columns {', '.join(job.text)}"
        raise InputError(
            f"{job.data} must hold one text for each prompt, got {got}: a decoder continues texts"
        )
    return source


def _ends(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that end a text: those that the model says, and the tokeniser's."""
    end_tokens = [
        getattr(config, "eos_token_id", None) for config in (model.generation_config, model.config, tokenizer)
    ]
    every = [end for tokens in end_tokens for end in (tokens if isinstance(tokens, list) else [tokens])]
    return tuple(sorted({int(end) for end in every if end is not None}))


def _continued(
    network: DecoderWithExits, way: PromptTokens, prompts: Prompts, weights: str, file: Path, show: bool
) -> Sequence[Sequence[int]]:
    """Return what the full network says after each prompt, kept in a file as it comes."""

    def missing(numbers: list[int]) -> Any:
        chosen = [prompts.tokens[i] for i in numbers]
        continued = continuations(
            network, chosen, prompts.keys[numbers], None, most_tokens=way.most_tokens, ends=way.ends
        )
        return ((numbers[i], continuation.tokens) for i, continuation in continued)

    job = content_digest([weights, prompts.tokens, way.job])
    return kept(file, job, len(prompts), missing, what=f"continuations of {file.stem}", show=show)


def _learn(
    network: DecoderWithExits,
    texts: Sequence[Sequence[int]],
    job: LanguageJob,
    out: Path,
    fingerprint: str,
    *,
    say: Callable[[str], None],
    progress: bool,
) -> int:
    """Train adapters, then confidences, on texts in random order; return from how many tokens adapters learned."""
    apart = max(1, round(_FOR_CONFIDENCES * len(texts)))
    order = np.random.default_rng(job.seed).permutation(len(texts)).tolist()
    for_confidences, learned = ([texts[i] for i in some] for some in (order[:apart], order[apart:]))
    if not learned:
        raise InputError(f"{counted(len(texts), 'prompt is', 'prompts are')} too few to train on: give more")
    network.learn_among(torch.tensor(sorted(set(chain.from_iterable(learned)))))
    options: Mapping[str, Any] = {
        **_RECIPE,
        **job.recipe,
        "mode": "frozen",
        "unlabelled": True,
        "seed": job.seed,
    }
    if job.batch_size is not None:
        options = {**options, "batch_size": job.batch_size}
    n_tokens = sum(map(len, learned))
    say(
        f"adapters learn from {n_tokens:,} tokens of {counted(len(learned), 'text')}, among the "
        f"{network.n_classes:,} tokens that occur there; confidences from {counted(len(for_confidences), 'text')}\n"
    )
    train(
        network,
        TokenBatches(learned, fingerprint),
        checkpoint_dir=out / "training",
        progress=progress,
        **options,
    )
    learn_confidences(network, for_confidences, seed=job.seed, show=progress)
    return n_tokens
