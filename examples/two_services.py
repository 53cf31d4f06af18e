"""Two paid services, cheap and dear: from a log of their answers to a certified policy, and to calling them."""

import numpy as np
import pyarrow as pa
import pyarrow.csv

import exeunt as ex

CLASSES = ["anger", "fear", "joy", "sadness"]
PRICE = {"small": 0.0002, "large": 0.0030}  # dollars a call


def answer(service: str, truth: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Stand in for a service: the predicted class and the confidence of each input."""
    votes = rng.normal(size=(len(truth), 4))
    votes[np.arange(len(truth)), truth] += {"small": 1.8, "large": 3.2}[service]
    share = np.exp(votes) / np.exp(votes).sum(axis=1, keepdims=True)
    return share.argmax(axis=1), share.max(axis=1)


def write_log(path: str, n: int, rng: np.random.Generator) -> None:
    """Write what your own log holds: a row per input, with both services' answers and the label."""
    truth = rng.integers(0, 4, n)
    columns = {"label": np.array(CLASSES)[truth]}
    for service in PRICE:
        prediction, confidence = answer(service, truth, rng)
        columns |= {f"{service}_label": np.array(CLASSES)[prediction], f"{service}_confidence": confidence}
    pyarrow.csv.write_csv(pa.table(columns), path)


def main() -> None:
    rng = np.random.default_rng(0)
    write_log("log.csv", 6000, rng)

    models = ex.CascadeTrace.from_table(
        "log.csv", label="label", prediction="{}_label", confidence="{}_confidence", price=PRICE
    )
    fit, calibrate, test = models.split(fit=0.3, calibrate=0.3, test=0.4, seed=0)
    policy = ex.cascade(fit, calibrate, budget="40%", delta=0.05)
    print(policy.certificate)
    print(ex.evaluate(policy, test))
    print(f"the large service alone: accuracy {test['large'].correct.mean():.1%} for 0.003 usd")

    # Live: ask the small service about every input, and the large one about those that the policy passes on.
    truth = rng.integers(0, 4, 1000)
    left, answers = np.arange(1000), np.full(1000, -1)
    state = policy.init(1000, id=np.arange(1000))
    for exit_, service in enumerate(policy.models):
        prediction, confidence = answer(service, truth[left], rng)
        decision = policy.decide(exit_, {"prediction": prediction, "confidence": confidence}, state)
        answers[left[decision.leave]] = decision.answer["prediction"][decision.leave]
        left, state = left[~decision.leave], decision.state.take(~decision.leave)
        print(f"{service}: {decision.leave.sum()} answered, {len(left)} passed on")
    print(f"accuracy {(answers == truth).mean():.1%}")


if __name__ == "__main__":
    main()
