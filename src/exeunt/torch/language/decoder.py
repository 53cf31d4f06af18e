"""A decoder of transformers, run some layers at a time on blocks of tokens that differ in length.

A part of the decoder is a shallow copy of the library's own module with some of its layers, so that positions and
attention are the library's. Every sequence has its own number of tokens in every layer.
Axis letters: n sequences, t tokens, d hidden units, v tokens of the vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from exeunt.errors import InputError, one_line
from exeunt.torch.calls import evaluating

_TRIED = 5  # tokens on which a decoder in parts is compared with the whole one


class KeyValues:
    """The keys and values of n sequences. Each layer may hold another number of tokens of each sequence.

    `capacity`: tokens of the longest sequence. It takes the place of a cache of transformers.
    """

    def __init__(self, n: int, capacity: int) -> None:
        self.n, self._padding = n, capacity  # the place behind the longest sequence is for padding
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._rows = self._places = torch.empty(0)
        self._end = 0

    def at(self, rows: Tensor, places: Tensor) -> None:
        """Say where the next tokens belong: their sequences (n,) and their places in these (n, t)."""
        self._rows, self._places = rows, places.clamp(max=self._padding)
        self._end = int(self._places.max()) + 1

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep keys and values (n, heads, t, d) of a layer; return all that it has of these sequences."""
        if layer not in self._layers:
            self._layers[layer] = (
                key.new_zeros(self.n, key.shape[1], self._padding + 1, key.shape[3]),
                value.new_zeros(self.n, value.shape[1], self._padding + 1, value.shape[3]),
            )
        stored = self._layers[layer]
        for store, new in zip(stored, (key, value), strict=True):
            store[self._rows[:, None], :, self._places] = new.transpose(1, 2)
        if len(self._rows) == self.n:  # in order: a view instead of a copy
            return stored[0][:, :, : self._end], stored[1][:, :, : self._end]
        return stored[0][self._rows, :, : self._end], stored[1][self._rows, :, : self._end]

    def get_seq_length(self, *_: Any) -> int:
        """Return 0: positions and masks are always given."""
        return 0

    def mask(self, dtype: torch.dtype) -> Tensor:
        """Return what attention adds for the tokens of `at`, (n, 1, t, end): each sees itself and those before it."""
        later = torch.arange(self._end, device=self._places.device) > self._places[:, None, :, None]
        return torch.zeros(later.shape, dtype=dtype, device=later.device).masked_fill_(
            later, torch.finfo(dtype).min
        )


class Decoder:
    """A causal language model of transformers, some layers at a time. Parts share its weights, and it is not changed.

    `layers`: their names in the model, in order; `vocabulary_layer`: the name of what gives logits. `context`: the
    longest text in tokens, None without a limit.
    Raises InputError for a model that is no decoder, or one whose parts do not give what the whole gives.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._base = base = model.base_model
        config = base.config
        tokens, logits = self._causal()
        lists = [
            name
            for name, child in base.named_children()
            if isinstance(child, nn.ModuleList) and len(child) == config.num_hidden_layers
        ]
        children = list(base._modules)
        self._list = lists[0] if len(lists) == 1 else ""
        behind = children[children.index(self._list) + 1 :] if self._list else []
        norms = [name for name in behind if "norm" in name or name.startswith("ln")]
        if len(norms) != 1:
            raise self._unusual("one list of layers and a norm behind it were looked for")
        self._norm = norms[0]
        prefix = f"{model.base_model_prefix}." if base is not model else ""
        self.layers = [f"{prefix}{self._list}.{i}" for i in range(config.num_hidden_layers)]
        self.vocabulary_layer = next(
            n for n, m in model.named_modules() if m is model.get_output_embeddings()
        )
        self.context = context_of(config)
        takes = inspect.signature(type(base).forward).parameters
        self._cache = "cache" if "cache" in takes else "past_key_values"  # its name changed in transformers 5
        self._parts: dict[tuple[int, int], nn.Module] = {}
        self._given = _AsGiven()
        self._vocabulary = _with_modules(model, {model.base_model_prefix: self._given})
        self._check(tokens, logits)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def n_tokens(self) -> int:
        """How many tokens it knows."""
        return int(self._base.get_input_embeddings().num_embeddings)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return what the first layer reads, (n, t, d), of tokens (n, t)."""
        return self._base.get_input_embeddings()(tokens)  # type: ignore[no-any-return]

    def run(
        self, hidden: Tensor, first: int, stop: int, rows: Tensor, places: Tensor, key_values: KeyValues
    ) -> Tensor:
        """Return the hidden states (n, t, d) after the layers `first` to `stop - 1`.

        `rows` (n,), places (n, t): which sequences these are and where in them the tokens are. `key_values` has the
        keys and values of the tokens before them, and gets theirs.
        """
        key_values.at(rows, places)
        if (first, stop) not in self._parts:
            self._parts[first, stop] = self._part(first, stop)
        output = self._parts[first, stop](
            inputs_embeds=hidden,
            position_ids=places,
            attention_mask=key_values.mask(hidden.dtype),
            use_cache=True,
            **{self._cache: key_values},
        )
        return output[0]  # type: ignore[no-any-return]

    def normed(self, hidden: Tensor) -> Tensor:
        """Return what the vocabulary layer reads, (..., d), of the hidden states after any layer."""
        return self._base._modules[self._norm](hidden)  # type: ignore[no-any-return]

    def logits(self, normed: Tensor) -> Tensor:
        """Return the logits (n, v) of the next token, by the model's own vocabulary layer, of (n, d)."""
        self._given.hidden = normed[:, None]
        return self._vocabulary().logits[:, 0]  # type: ignore[no-any-return]

    def _part(self, first: int, stop: int) -> nn.Module:
        base = self._base
        changed: dict[str, nn.Module] = {self._list: base._modules[self._list][first:stop]}
        changed[self._norm] = nn.Identity()
        if first:  # positions were added before the first layer
            own = base.get_input_embeddings()
            for name, child in base.named_children():
                if isinstance(child, nn.Embedding) and child is not own:
                    changed[name] = _Zero()
        part: nn.Module = _with_modules(base, changed)
        if types := getattr(base.config, "layer_types", None):
            config: Any = copy.copy(base.config)
            config.layer_types = types[first:stop]
            part.config = config
        return part

    def _causal(self) -> tuple[Tensor, Tensor]:
        """Return a few tokens and the logits of the full network. Raises InputError if it sees later tokens."""
        config = self._base.config
        tokens = torch.arange(2 * _TRIED).reshape(2, -1) % config.vocab_size
        tokens = tokens.to(self.device)
        if not getattr(config, "is_encoder_decoder", False):
            with evaluating(self.model), torch.inference_mode():
                logits, shorter = self.model(tokens).logits, self.model(tokens[:, :-1]).logits
            if _close(logits[:, :-1], shorter):
                return tokens, logits
        raise InputError(
            f"{config.model_type!r} is no decoder: tokens see later ones. Give a causal language model, such as Llama"
        )

    def _check(self, tokens: Tensor, logits: Tensor) -> None:
        """Raise InputError unless two halves, token by token, give what the full network gives on a text at once."""
        n, middle = len(self.layers), (len(self.layers) + 1) // 2
        rows, key_values, stepwise = torch.arange(2, device=tokens.device), KeyValues(2, _TRIED), []
        try:
            with evaluating(self.model), torch.inference_mode():
                for start, end in ((0, _TRIED - 1), (_TRIED - 1, _TRIED)):
                    places = torch.arange(start, end, device=tokens.device).expand(2, -1)
                    hidden = self.embed(tokens[:, start:end])
                    for first, stop in ((0, middle), (middle, n)):
                        hidden = (
                            self.run(hidden, first, stop, rows, places, key_values)
                            if first < stop
                            else hidden
                        )
                    stepwise.append(self.logits(self.normed(hidden[:, -1])))
        except Exception as error:  # code of a library may raise anything
            raise self._unusual(one_line(error)) from error
        if not _close(torch.stack(stepwise), torch.stack([logits[:, -2], logits[:, -1]])):
            raise self._unusual("its parts do not give what the full network gives")

    def _unusual(self, why: str) -> InputError:
        return InputError(
            f"a {self._base.config.model_type!r} decoder cannot be run some layers at a time here ({why}): give one of "
            "the usual shape, such as Llama, Qwen, Mistral, Gemma, Phi or GPT-2"
        )


def context_of(config: Any) -> int | None:
    """Return the longest text that a decoder of this configuration takes, in tokens; None without a limit."""
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window")]
    return min((limit for limit in limits if limit), default=None)


def _close(logits: Tensor, own: Tensor) -> bool:
    return torch.allclose(logits, own, rtol=1e-3, atol=1e-3 * float(own.abs().max()))


def _with_modules(module: Any, changed: dict[str, nn.Module]) -> Any:
    """Return a shallow copy of a module with other children."""
    other = copy.copy(module)
    other._modules = {**module._modules, **changed}
    return other


class _Zero(nn.Module):
    def forward(self, places: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.zeros(1, device=places.device)


class _AsGiven(nn.Module):
    """In place of the layers: returns `hidden`."""

    hidden: Tensor

    def forward(self, *_: Any, **__: Any) -> _Output:
        return _Output([self.hidden])


class _Output(tuple[Tensor]):
    """What the layers return: hidden states, and None for all else that models of the library ask for."""

    def __getattr__(self, name: str) -> Tensor | None:
        return self[0] if name == "last_hidden_state" else None


def ragged(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return hidden states of sequences of different length (t_i, d) as one block (n, t, d), and the lengths (n,)."""
    lengths = torch.tensor([len(part) for part in parts], device=parts[0].device)
    return nn.utils.rnn.pad_sequence(list(parts), batch_first=True), lengths
