"""A language model that generates, with early exits per token."""

from __future__ import annotations

from exeunt.runs.kinds.kind import RunKind

DECODER = "decoder.safetensors"
KIND = RunKind(
    file=DECODER,
    holds="the weights of decoder and heads",
    last_exit="own vocabulary layer",
    actions={
        "calibrate": "exeunt.cli.language:calibrate_language_model",
        "evaluate": "exeunt.cli.language:evaluate_language_model",
        "predict": "exeunt.cli.language:generate",
    },
    refuses={
        "run": "{run} generates texts: answer with `exeunt predict`, or in Python with "
        "exeunt.torch.language.LanguageModel. It is not served, timed or exported",
        "join": "{run} generates texts, and the models of a cascade answer with classes: leave it out",
    },
)
