"""A classifier for scikit-learn: a network with early exits, trained and calibrated in one `fit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.errors import InputError, require
from exeunt.rules.catalogue import preset
from exeunt.runs.runner import Runner

require("torch", extra="sklearn")
require("sklearn", extra="sklearn")

from collections.abc import Callable  # noqa: E402

import torch  # noqa: E402
from numpy.typing import ArrayLike, NDArray  # noqa: E402
from sklearn.base import BaseEstimator, ClassifierMixin  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.utils import check_random_state  # noqa: E402
from sklearn.utils.multiclass import check_classification_targets  # noqa: E402
from sklearn.utils.validation import check_is_fitted, validate_data  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from exeunt._support.arrays import Floats, Integers  # noqa: E402
from exeunt.engine.answers import Answers  # noqa: E402
from exeunt.torch.devices import seeded  # noqa: E402
from exeunt.torch.executor import make_executor  # noqa: E402
from exeunt.torch.exits.attach import attach  # noqa: E402
from exeunt.torch.exits.network import EarlyExitNetwork, record  # noqa: E402
from exeunt.torch.training.train import train  # noqa: E402
from exeunt.trace import ExitTrace  # noqa: E402
from exeunt.zoo import TableNet  # noqa: E402

if TYPE_CHECKING:
    from typing_extensions import Self

# Rows of each part. With fewer to calibrate on, nothing can be certified at delta = 0.05.
_LEAST = {"fit": 2, "calibrate": 5}


class ExeuntClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A network whose easy inputs leave at an early exit, so that the mean cost stays within a budget.

    `network`: a function of (n_features, n_classes) that returns a `torch.nn.Module` from rows (n, d) to logits (n, k);
        None for a small one for tables, `exeunt.zoo.TableNet`. Columns are standardised for it, and only for it.
    `budget`: mean cost per input: a share of the full network's, above 0 and at most 1, or a text such as "50%" or
        "20 kMACs".
    `delta`: largest probability with which the budget may be exceeded, see the certificate of `policy_`; None keeps it
        on average only.
    `policy`: a preset by name, such as "eero" or "auto".
    `exits`: number of early exits, at most 3 in the small network. `epochs`, `learning_rate`, `batch_size`: of the
        training, with AdamW.
    `fit_share`, `calibrate_share`: shares of the rows on which a policy is fitted, and on which its thresholds are
        calibrated, at least 2 and 5 rows. The network is trained on the other rows only.
    `random_state`: of the parts, the weights and the order of training.

    After `fit`: `classes_` (k,), `n_features_in_`, `feature_names_in_` (where the columns have names), `policy_`,
    `network_`, `n_parts_` (rows of each part).
    """

    def __init__(
        self,
        network: Callable[[int, int], torch.nn.Module] | None = None,
        budget: float | str = 0.5,
        delta: float | None = 0.05,
        *,
        policy: str = "eero",
        exits: int = 2,
        epochs: int = 30,
        learning_rate: float = 0.01,
        batch_size: int = 32,
        fit_share: float = 0.15,
        calibrate_share: float = 0.15,
        random_state: Any = None,
    ) -> None:
        self.network = network
        self.budget = budget
        self.delta = delta
        self.policy = policy
        self.exits = exits
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.fit_share = fit_share
        self.calibrate_share = calibrate_share
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train on one part of the rows, and fit and calibrate a policy on two others.

        Raises InputError (a ValueError) for fewer than two classes or too few rows, InfeasibleBudget for a budget below
        the first exit's cost, or one that so few rows cannot certify: give more rows, or delta=None.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        self.classes_, coded = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"a classifier needs 2 classes or more, got {len(self.classes_)} class")
        random = check_random_state(self.random_state)
        seed = int(random.randint(2**31 - 1))
        parts = _parts(len(rows), {"fit": self.fit_share, "calibrate": self.calibrate_share}, random)
        self.n_parts_ = {name: len(part) for name, part in parts.items()}
        spread = rows[parts["train"]].std(axis=0)
        self._mean, self._scale = rows[parts["train"]].mean(axis=0), np.where(spread > 0, spread, 1.0)
        if self.network is not None:
            self._mean, self._scale = np.zeros_like(spread), np.ones_like(spread)
        self.network_ = self._attached(seed)
        self._train(rows[parts["train"]], coded[parts["train"]], seed)
        fit, held_out = (self._recorded(rows, coded, parts[name]) for name in ("fit", "calibrate"))
        self.policy_ = preset(self.policy)(fit, held_out, budget=_budget(self.budget), delta=self.delta)
        self._kept: dict[str, Any] = {}  # scikit-learn wants predictions to set no attributes
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the class of each row (n,). Then `exit_` is where each row was answered and `cost_` what it cost."""
        label = self.answers(X).label  # first: it says so if nothing was fitted
        return self.classes_[label]

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return the probabilities of the classes (n, k) at the exit that answers the row."""
        probabilities = self.answers(X).probabilities
        return np.zeros((0, len(self.classes_))) if probabilities is None else probabilities

    def answers(self, X: ArrayLike) -> Answers:
        """Return label (as a position in `classes_`), probabilities, exit and cost of each row, see `Answers`."""
        check_is_fitted(self)
        rows = self._tensor(validate_data(self, X, dtype=np.float64, reset=False))
        if "runner" not in self._kept:
            executor = make_executor(self.network_, rows[:2])
            self._kept["runner"] = Runner(executor, self.policy_, probabilities=True)
        answers: Answers = self._kept["runner"](rows)
        if not answers.valid.all():
            row = int(np.flatnonzero(~answers.valid)[0])
            raise InputError(f"the network's output for row {row} is not finite: its values are too large")
        self._kept["answers"] = answers
        return answers

    @property
    def exit_(self) -> Integers:
        """Exit at which each row of the last prediction was answered, (n,): 0 is the first."""
        return self._latest("exit_").exit

    @property
    def cost_(self) -> Floats:
        """Multiply-adds that each row of the last prediction cost, (n,). `policy_.cost` has those of every exit."""
        return self._latest("cost_").cost

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickle and copy, without the stages of the network, which are cut again when needed."""
        state: dict[str, Any] = super().__getstate__()
        return {**state, "_kept": {}} if "_kept" in state else state

    def _attached(self, seed: int) -> EarlyExitNetwork:
        """Return the network with its exits, untrained."""
        d, k = self.n_features_in_, len(self.classes_)
        with seeded(seed, torch.device("cpu")):
            make: Any = TableNet if self.network is None else self.network
            model: torch.nn.Module = make(d, k)
        exits: Any = [f"blocks.{i}" for i in range(self.exits)] if self.network is None else self.exits
        return attach(
            model,
            torch.zeros(2, d),
            exits,
            head="paper",
            n_classes=k,
            seed=seed,
            check=self.network is not None,
            verbose=False,
        )

    def _train(self, rows: Floats, labels: Integers, seed: int) -> None:
        data = TensorDataset(self._tensor(rows), torch.from_numpy(labels))
        loader = DataLoader(data, batch_size=self.batch_size, shuffle=True)
        train(
            self.network_,
            loader,
            mode="joint",
            optimiser="adamw",
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            seed=seed,
            device="cpu",
            progress=False,
        )
        if self.network is None:  # a network of the user's may need single precision
            self.network_.double()  # logits are rounded to single precision, so other rows of a batch change nothing

    def _recorded(self, rows: Floats, labels: Integers, part: Integers) -> ExitTrace:
        batch = (self._tensor(rows[part]), torch.from_numpy(labels[part]), torch.from_numpy(part))
        return record(self.network_, [batch])

    def _tensor(self, rows: Floats) -> torch.Tensor:
        return torch.from_numpy((rows - self._mean) / self._scale).to(next(self.network_.parameters()).dtype)

    def _latest(self, name: str) -> Answers:
        answers: Answers | None = getattr(self, "_kept", {}).get("answers")
        if answers is None:
            raise NotFittedError(f"{name} describes the last prediction: call predict or predict_proba first")
        return answers


def _parts(n: int, shares: dict[str, float], random: Any) -> dict[str, Integers]:
    """Return the rows of each part, drawn at random. Raises InputError if no row is left to train on."""
    if min(shares.values()) < 0:
        raise InputError(f"fit_share and calibrate_share must be 0 or more, got {min(shares.values())}")
    counts = [max(_LEAST[part], round(share * n)) for part, share in shares.items()]
    if sum(counts) >= n:
        raise InputError(
            f"fit and calibrate take {counts[0]} and {counts[1]} of n_samples = {n}, and leave none to train on: give "
            "more rows, or smaller shares"
        )
    return dict(zip((*shares, "train"), np.split(random.permutation(n), np.cumsum(counts)), strict=True))


def _budget(budget: Any) -> str:
    """Return a budget as policies take it. Raises InputError for a number that is no share."""
    if isinstance(budget, str):
        return budget
    if not isinstance(budget, (int, float, np.number)) or not 0 < budget <= 1:
        raise InputError(
            f'budget must be a share above 0 and at most 1, or a text such as "20 kMACs", got {budget!r}'
        )
    return f"{100 * budget}%"
