"""Two classifiers of scikit-learn in a cascade: what each budget buys, beside a random mixture of the two."""

from time import perf_counter

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

import exeunt as ex
from exeunt.evaluation.figures import save_figure
from exeunt.evaluation.figures.style import drawing, percent_ticks

BUDGETS = ("15%", "20%", "30%", "40%", "60%", "80%")


def recorded(model: object, x: np.ndarray, y: np.ndarray) -> ex.ExitTrace:
    """Return a model's outputs on the inputs, at the price of its time per input."""
    start = perf_counter()
    probabilities = model.predict_proba(x)
    cost = ex.CostModel([1e3 * (perf_counter() - start) / len(x)], unit="ms")
    return ex.ExitTrace.from_probabilities(probabilities[:, None], cost=cost, label=y, id=np.arange(len(y)))


def main() -> None:
    x, y = load_digits(return_X_y=True)
    train_x, x, train_y, y = train_test_split(x, y, train_size=250, random_state=0)
    small = LogisticRegression(max_iter=500).fit(train_x[:, ::2], train_y)  # every other pixel
    large = CalibratedClassifierCV(SVC(), ensemble=False).fit(train_x, train_y)

    models = ex.CascadeTrace({"small": recorded(small, x[:, ::2], y), "large": recorded(large, x, y)})
    fit, calibrate, test = models.split(fit=0.3, calibrate=0.2, test=0.5, seed=0)
    full = test["large"].cost.full
    results = [ex.evaluate(ex.cascade(fit, calibrate, budget=budget), test) for budget in BUDGETS]
    for budget, result in zip(BUDGETS, results, strict=True):
        print(
            f"{budget}: accuracy {result.accuracy:.1%} for {result.cost / full:.0%} of the large model's time"
        )

    with drawing(None, width_in=7, height_in=4) as axes:
        axes.plot(
            [r.cost / full for r in results],
            [r.accuracy for r in results],
            "o-",
            label="cascade",
        )
        alone = [(test[name].cost.full / full, test[name].correct.mean()) for name in models.names]
        axes.plot(*zip(*alone, strict=True), "s--", color="grey", label="random mixture")
        lost = 100 * (test["large"].correct.mean() - results[2].accuracy)
        axes.set_title(f"{results[2].cost / full:.0%} of the large model's time, {lost:.1f} points below it")
        axes.set(xlabel="time per input, share of the large model's", ylabel="accuracy")
        percent_ticks(axes.xaxis), percent_ticks(axes.yaxis)
        axes.legend()
    save_figure(axes.figure, "scikit_learn_cascade")


if __name__ == "__main__":
    main()
