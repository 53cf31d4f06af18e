"""One certified policy per budget, and a switch between them: a day budget of money, kept by changing the policy."""

import numpy as np

import exeunt as ex

PRICES = [0.001, 0.004, 0.012]  # dollars an answer, in all, at three exits


def outputs(n: int, seed: int) -> ex.ExitTrace:
    """Stand in for recorded outputs of three models, each better than the one before."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 10, n)
    logits = rng.normal(size=(n, 3, 10))
    logits[np.arange(n), :, label] += [1.5, 2.5, 3.5]
    return ex.ExitTrace.from_logits(logits, cost=ex.CostModel(PRICES, unit="usd"), label=label)


def main() -> None:
    fit, calibrate = outputs(1500, seed=1), outputs(1500, seed=2)
    policies = ex.PolicySet.make(ex.auto, fit, calibrate, budgets=["30%", "40%", "50%", "60%"], delta=0.05)
    left, to_come = 60.0, 12_000  # dollars and inputs of this day
    for hour in range(12):
        inputs = outputs(1000, seed=100 + hour)
        policy = policies.at(left / to_come)  # the most that an input may cost on average from now on
        result = ex.evaluate(policy, inputs)
        left, to_come = left - result.cost * inputs.n, to_come - inputs.n
        print(
            f"hour {hour:2}: budget {policy.budget:.4f} usd, accuracy {result.accuracy:.1%}, {left:6.2f} usd left"
        )


if __name__ == "__main__":
    main()
