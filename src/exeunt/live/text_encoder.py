"""An encoder of texts as what tells a router features."""

from __future__ import annotations

import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from exeunt._support.arrays import Floats
from exeunt._support.files import file_digest
from exeunt._support.hub import hub_access, quiet_loading
from exeunt.errors import InputError, require


class TextEncoder:
    """The embedding of a text, as a function for `FeatureModel`: the mean over tokens of the encoder's last layer.

    `source`: "hf:NAME_OR_FOLDER", an encoder of Hugging Face (extra `exeunt[hf]`), or "onnx:FILE.onnx", whose folder
    holds the tokenizer (`exeunt[hf,onnx]`). Texts are cut to `max_tokens`, or to the fewer that an encoder of Hugging
    Face takes.

    Raises InputError for another kind, or what cannot be opened.
    """

    def __init__(self, source: str, *, max_tokens: int = 256) -> None:
        kind, _, self._name = source.partition(":")
        if kind not in ("hf", "onnx") or not self._name:
            raise InputError(f"an encoder is hf:NAME_OR_FOLDER or onnx:FILE.onnx, got {source!r}")
        if max_tokens < 1:
            raise InputError(f"max_tokens must be at least 1, got {max_tokens}")
        self._is_onnx, self._turn = kind == "onnx", threading.Lock()
        self._max_tokens = self._longest = max_tokens
        is_path = self._name.startswith(("/", ".", "~")) or self._name.count("/") > 1
        if not self._is_onnx and is_path and not Path(self._name).is_dir():
            raise InputError(
                f"there is no folder {self._name}: give hf:FOLDER, or hf:NAME of one of Hugging Face"
            )
        if self._is_onnx and not Path(self._name).is_file():
            raise InputError(
                f"there is no file {self._name}: give onnx:FILE.onnx, with the tokenizer beside it"
            )

    @property
    def identity(self) -> str:
        """What tells encoders apart whose embeddings differ."""
        file = Path(self._name)
        files = [file] if self._is_onnx else sorted(file.glob("*.safetensors"))
        digest = " ".join(map(file_digest, files)) or self._name
        return f"encoder of {self._max_tokens} tokens {digest}"

    def __call__(self, text: str) -> Floats:
        """Return the embedding (d,). Raises InputError for what is no text."""
        if not isinstance(text, str):
            raise InputError(f"an encoder takes texts, got {type(text).__name__}")
        with self._turn:  # a tokenizer serves one thread at a time
            tokenizer, encode = self._opened
            longest = min(self._max_tokens, self._longest)
            tokens = tokenizer([text], truncation=True, max_length=longest, return_tensors="np")
        hidden: Floats = np.asarray(encode(tokens), dtype=np.float64)[0]
        embedding: Floats = hidden if hidden.ndim == 1 else hidden.mean(axis=0)
        return embedding

    def open(self) -> None:
        """Open the encoder now, not with the first text. Raises InputError for what cannot be opened."""
        with self._turn:
            _ = self._opened

    @cached_property
    def _opened(self) -> tuple[Any, Any]:
        folder = str(Path(self._name).parent) if self._is_onnx else self._name
        with (
            hub_access(self._name, f"the encoder {self._name} cannot be opened", model=True),
            quiet_loading(),
        ):
            transformers: Any = require("transformers", extra="hf")
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            return tokenizer, self._in_onnx() if self._is_onnx else self._in_pytorch(transformers)

    def _in_pytorch(self, transformers: Any) -> Any:
        import torch

        network = transformers.AutoModel.from_pretrained(
            self._name, trust_remote_code=False, use_safetensors=True
        ).eval()
        self._longest = getattr(network.config, "max_position_embeddings", self._max_tokens)

        def encode(tokens: Any) -> Any:
            with torch.inference_mode():
                return (
                    network(**{name: torch.as_tensor(token) for name, token in tokens.items()})[0]
                    .float()
                    .numpy()
                )

        return encode

    def _in_onnx(self) -> Any:
        session = require("onnxruntime", extra="onnx").InferenceSession(self._name)
        names = {get_input.name for get_input in session.get_inputs()}
        return lambda tokens: session.run(
            None, {name: token.astype(np.int64) for name, token in tokens.items() if name in names}
        )[0]
