"""A classifier for scikit-learn: a small network with early exits, trained and calibrated in one `fit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._sealed import read_sealed, write_sealed
from exeunt.engine.kept_logits import LogitsKeeper
from exeunt.errors import ArtefactError, InputError, require
from exeunt.policies.catalogue import preset
from exeunt.policy import Policy
from exeunt.run.runner import Runner
from exeunt.score.confidence import softmax

require("torch", extra="sklearn")
require("sklearn", extra="sklearn")

import torch  # noqa: E402
from sklearn.base import BaseEstimator, ClassifierMixin  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.utils import check_random_state  # noqa: E402
from sklearn.utils.multiclass import check_classification_targets  # noqa: E402
from sklearn.utils.validation import check_is_fitted, validate_data  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from exeunt.torch.executor import make_executor  # noqa: E402
from exeunt.torch.exits.attach import attach  # noqa: E402
from exeunt.torch.models.weights import load_weights, save_weights  # noqa: E402
from exeunt.torch.processes import seeded  # noqa: E402
from exeunt.torch.recording import record  # noqa: E402
from exeunt.torch.training.train import train  # noqa: E402
from exeunt.zoo import TableNet  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Self

    from exeunt._arrays import Floats, Integers
    from exeunt.engine.answers import Answers
    from exeunt.torch.exits.network import EarlyExitNetwork
    from exeunt.trace import ExitTrace

__all__ = ["ExeuntClassifier"]

_FILE, _WEIGHTS, _POLICY = "classifier.json", "weights.safetensors", "policy.json"
_FORMAT: dict[str, Any] = {"format_": "exeunt-classifier", "version": 1}


class ExeuntClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A network whose easy inputs leave at an early exit, so that the mean cost stays within a budget.

    `network`: a function of (n_features, n_classes) that returns a `torch.nn.Module` from rows (n, d) to logits (n, k);
        None for a small one for tables, which standardises the columns itself.
    `budget`: mean cost per input: a share of the full network's, above 0 and at most 1, or a text such as "50%" or
        "20 kMACs".
    `delta`: largest probability with which the budget may be exceeded, see the certificate of `policy_`; None keeps it
        on average only.
    `policy`: a preset by name, such as "eero" or "auto".
    `exits`: number of early exits. `epochs`, `learning_rate`, `batch_size`: of the training, with AdamW.
    `fit_share`, `calibrate_share`: the part of the rows from which error rates are learned, and the part from which
        thresholds are. The network is trained on the rest alone.
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
        epochs: int = 40,
        learning_rate: float = 0.003,
        batch_size: int = 64,
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
        """Train on one part of the rows, and calibrate on two others.

        Raises InputError (a ValueError) for fewer than two classes or too few rows, InfeasibleBudget for a budget below
        the first exit, Infeasible if the calibration part is too small to certify anything: give more rows, or
        delta=None.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        self.classes_, coded = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"a classifier needs 2 classes or more, got {len(self.classes_)} class")
        random = check_random_state(self.random_state)
        seed = int(random.randint(2**31 - 1))
        parts = _parts(len(rows), (self.fit_share, self.calibrate_share), random)
        self.n_parts_ = {name: len(part) for name, part in parts.items()}
        self._mean, self._scale = _standard(rows[parts["train"]], as_it_is=self.network is not None)
        self.network_ = self._attached(seed)
        self._train(rows[parts["train"]], coded[parts["train"]], seed)
        fit, held_out = (self._recorded(rows, coded, parts[name]) for name in ("fit", "calibrate"))
        budget = self.budget if isinstance(self.budget, str) else f"{100 * self.budget}%"
        self.policy_ = preset(self.policy)(fit, held_out, budget=budget, delta=self.delta)
        self._last: dict[str, Answers] = {}
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the class of each row (n,). `exit_` and `cost_` then say where it was answered and what it cost."""
        labels: NDArray[Any] = self.classes_[self._answered(X)[0].label]
        return labels

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return the probabilities of the classes (n, k), as the exit says them that answers the row."""
        return self._answered(X)[1]

    def answers(self, X: ArrayLike) -> Answers:
        """Return label (as a position in `classes_`), confidence, exit and cost of each row, see `Answers`."""
        return self._answered(X, keep=False)[0]

    @property
    def exit_(self) -> Integers:
        """Exit at which each row of the last prediction was answered, (n,): 0 is the first."""
        return self._latest("exit_").exit

    @property
    def cost_(self) -> Floats:
        """Multiply-adds that each row of the last prediction cost, (n,). `policy_.cost` has those of every exit."""
        return self._latest("cost_").cost

    def save(self, folder: str | Path) -> None:
        """Write the fitted classifier to a folder, as JSON and safetensors. Raises InputError for a given `network`."""
        check_is_fitted(self)
        if self.network is not None:
            raise InputError(
                "a network of your own cannot be written to a file: keep the code that makes it, and fit again"
            )
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        save_weights(self.network_, path / _WEIGHTS)
        self.policy_.save(path / _POLICY)
        options = self.get_params()
        if not isinstance(options["random_state"], (int, type(None))):
            options["random_state"] = None  # a generator, whose state is of no use any more
        names = getattr(self, "feature_names_in_", None)
        body = {
            "options": options,
            "classes": self.classes_.tolist(),
            "class_type": self.classes_.dtype.str,
            "n_features": self.n_features_in_,
            "feature_names": None if names is None else names.tolist(),
            "mean": self._mean.tolist(),
            "scale": self._scale.tolist(),
            "parts": self.n_parts_,
        }
        write_sealed(path / _FILE, "classifier", body, **_FORMAT)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Open what `save` wrote. Raises ArtefactError if it is damaged or edited."""
        path = Path(folder)
        made: Self = read_sealed(
            path / _FILE, "classifier", cls._restored, kind="classifier", remedy="save it again", **_FORMAT
        )
        load_weights(made.network_, path / _WEIGHTS)
        made.policy_ = Policy.load(path / _POLICY)
        if made.policy_.cost != made.network_.cost:
            raise ArtefactError(f"the policy in {path} is of another network: save it again")
        return made

    @classmethod
    def _restored(cls, body: dict[str, Any]) -> Self:
        made = cls(**body["options"])
        kind = body["class_type"]
        made.classes_ = np.array(body["classes"], dtype=object if kind == "|O" else kind)
        made.n_features_in_ = body["n_features"]
        if body["feature_names"] is not None:
            made.feature_names_in_ = np.array(body["feature_names"], dtype=object)
        made._mean, made._scale = np.array(body["mean"]), np.array(body["scale"])
        made.n_parts_, made._last = body["parts"], {}
        made.network_ = made._attached(0)
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle and copy keep: not the stages, which are cut again when they are needed."""
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_runner"}

    def _attached(self, seed: int) -> EarlyExitNetwork:
        """Return the network with its exits, untrained."""
        d, k = self.n_features_in_, len(self.classes_)
        with seeded(seed, torch.device("cpu")):
            make: Any = TableNet if self.network is None else self.network
            model: torch.nn.Module = make(d, k)
        exits: Any = [f"blocks.{i}" for i in range(self.exits)] if self.network is None else self.exits
        options: dict[str, Any] = {"head": "paper", "n_classes": k, "seed": seed, "verbose": False}
        return attach(model, torch.zeros(2, d), exits, **options)

    def _train(self, rows: Floats, labels: Integers, seed: int) -> None:
        data = TensorDataset(self._tensor(rows, torch.float32), torch.from_numpy(labels))
        loader = DataLoader(data, batch_size=self.batch_size, shuffle=True)
        train(
            self.network_, loader, mode="joint", optimiser="adamw", epochs=self.epochs,
            learning_rate=self.learning_rate, seed=seed, device="cpu", progress=False,
        )  # fmt: skip
        self.network_.double()  # a prediction then depends on its own row alone, but for the 15th digit

    def _recorded(self, rows: Floats, labels: Integers, part: Integers) -> ExitTrace:
        batch = (self._tensor(rows[part]), torch.from_numpy(labels[part]), torch.from_numpy(part))
        return record(self.network_, [batch])

    def _tensor(self, rows: Floats, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.from_numpy((rows - self._mean) / self._scale).to(dtype)

    def _answered(self, X: ArrayLike, *, keep: bool = True) -> tuple[Answers, Floats]:
        """Return the answers, and the probabilities (n, k) of the exits that gave them."""
        check_is_fitted(self)
        rows = self._tensor(validate_data(self, X, dtype=np.float64, reset=False))
        executor = LogitsKeeper(make_executor(self.network_.double(), rows[:2]))
        answers = Runner(executor, self.policy_)(rows)
        if not answers.valid.all():
            row = int(np.flatnonzero(~answers.valid)[0])
            raise InputError(f"the network's output for row {row} is not finite: its values are too large")
        logits = np.empty((answers.n, len(self.classes_)))
        for exit_, of_exit in executor.logits.items():
            logits[answers.exit == exit_] = of_exit[answers.exit == exit_]
        if keep:
            self._last["answers"] = answers
        return answers, softmax(logits)

    def _latest(self, name: str) -> Answers:
        answers = getattr(self, "_last", {}).get("answers")
        if answers is None:
            raise NotFittedError(f"{name} is about the last prediction: call predict or predict_proba first")
        return answers  # type: ignore[no-any-return]


def _parts(n: int, shares: tuple[float, float], random: Any) -> dict[str, Integers]:
    """Return the rows of each part, drawn at random: at least one each. Raises InputError if that cannot be."""
    counts = [max(1, round(share * n)) for share in shares]
    if min(shares) < 0 or sum(counts) >= n:
        raise InputError(
            f"fit and calibrate take {counts[0]} and {counts[1]} of n_samples = {n}, and leave none to train on: give "
            "more rows, or smaller shares"
        )
    order = random.permutation(n)
    pieces = np.split(order, np.cumsum(counts))
    return dict(zip(("fit", "calibrate", "train"), pieces, strict=True))


def _standard(rows: Floats, *, as_it_is: bool) -> tuple[Floats, Floats]:
    """Return mean and deviation of the columns, (d,); 0 and 1 for columns that are left as they are."""
    if as_it_is:
        return np.zeros(rows.shape[1]), np.ones(rows.shape[1])
    scale = rows.std(axis=0)
    return rows.mean(axis=0), np.where(scale > 0, scale, 1.0)
