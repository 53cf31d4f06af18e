"""An estimator of scikit-learn, such as `--model tfidf`."""

from __future__ import annotations

from exeunt.runs.kinds.kind import ExecutorKind, RunKind

ESTIMATOR = "model.skops"
KIND = RunKind(
    file=ESTIMATOR,
    holds="the estimator of scikit-learn",
    executors={
        "sklearn": ExecutorKind(
            "exeunt.runs.estimator_executor:open_estimator",
            needs=ESTIMATOR,
            remedy="it is no estimator of scikit-learn",
            package="skops",
            extra="tfidf",
            checker="exeunt.runs.estimator_executor:check_estimator",
        )
    },
)
