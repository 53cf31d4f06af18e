"""A cascade: several runs in a row, each run by the executor that it has alone."""

from __future__ import annotations

from exeunt.runs.kinds.kind import ExecutorKind, RunKind

CASCADE = "cascade.json"
KIND = RunKind(
    file=CASCADE,
    holds="the models of the cascade",
    made_by="make the cascade anew with `exeunt cascade`",
    models="exeunt.runs.manifest:read_cascade",
    executors={
        "cascade": ExecutorKind(
            "exeunt.runs.executors:open_cascade",
            needs=CASCADE,
            remedy="it is one network; make a cascade of several with `exeunt cascade`",
            checker="exeunt.runs.executors:check_cascade",
        )
    },
)
