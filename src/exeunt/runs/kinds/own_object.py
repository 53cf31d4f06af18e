"""A note that the network is an object of your own, which no file holds: it is a model of a cascade."""

from __future__ import annotations

from exeunt.runs.kinds.kind import ExecutorKind, RunKind

OBJECT = "object.json"
KIND = RunKind(
    file=OBJECT,
    holds="the note that the network is an object of your own",
    made_by="make the cascade that it is a model of anew",
    executors={
        "object": ExecutorKind(
            "exeunt.runs.estimator_executor:open_object",
            needs=OBJECT,
            remedy="it is no object of your own",
        )
    },
)
