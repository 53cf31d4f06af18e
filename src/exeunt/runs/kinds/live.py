"""Services and functions that are asked for answers, see `exeunt record --models`."""

from __future__ import annotations

from exeunt.runs.kinds.kind import ExecutorKind, RunKind

LIVE = "models.json"
KIND = RunKind(
    file=LIVE,
    holds="the names of the live models",
    made_by="repeat the `exeunt record --models` that made it",
    executors={"live": ExecutorKind("", needs=LIVE, remedy="it was not recorded from live models")},
    models="exeunt.runs.manifest:read_live_models",
    is_paid=True,
    actions={"serve": "exeunt.serve.loaded_run:open_live"},
    refuses={
        "run": "{run} asks live models: answer in Python with exeunt.LiveCascade(models, run.policy), or with `exeunt "
        "predict` or `exeunt serve` and --models models.yaml. They are not timed or exported",
        "time": "{run} asks live models, which are not timed, because their calls may cost money: give budgets in "
        "{unit}, or as shares",
    },
)
