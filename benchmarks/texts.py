"""A sentence encoder with exits on the clock: original, in stages and by a plan, in PyTorch and in ONNX Runtime.

    python -m benchmarks.texts RUN

RUN is a calibrated and exported run of texts, such as `experiments.banking77 --train` leaves in
runs/banking77/frozen. Each table is what `exeunt bench RUN --profile` prints. Then the same network behind tf-idf, a
cascade that is made here, under a budget of its time. Writes docs/results/texts-on-the-clock.md. Run it on an idle
machine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from experiments.pages import RESULTS, parser, write_page

from exeunt.run.folder import RunFolder
from exeunt.timing.measuring import describe_machine

PAGE = RESULTS / "texts-on-the-clock.md"
EXEUNT = (sys.executable, "-m", "exeunt")
CASCADE_BUDGET = "12%"
EXECUTORS = {"onnx": "ONNX Runtime", "eager": "PyTorch"}


def printed(folder: Path, *command: str) -> str:
    """Return what a command of `exeunt` prints, without what it says of files in `folder`."""
    done = subprocess.run([*EXEUNT, *command], stdout=subprocess.PIPE, text=True, check=True)
    return "\n".join(line for line in done.stdout.splitlines() if str(folder) not in line).strip()


def network(run: Path, executor: str, sizes: str) -> str:
    """Return the table of a network by itself."""
    return printed(run, "bench", str(run), "--profile", "--executor", executor, "--batch-size", sizes)


def cascade(run: Path, size: str) -> str:
    """Return the table of the network behind tf-idf: exits and thresholds are chosen at this batch size."""
    tfidf, made = run.with_name("tfidf"), run.with_name("cascade")
    if not RunFolder.exists(made):
        data = RunFolder.open(run).manifest["data"]["name"]
        printed(tfidf, "train", "--model", "tfidf", "--data", data, "--out", str(tfidf))
        printed(made, "cascade", str(tfidf), str(run), "--out", str(made))
    budget = ["--budget", CASCADE_BUDGET, "--of", "time", "--batch-size", size, "--delta", "none"]
    done = subprocess.run(
        [*EXEUNT, "calibrate", str(made), *budget], stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        return f"batch {size}: {done.stderr.strip().splitlines()[-1].removeprefix('exeunt: ')}"
    return printed(made, "bench", str(made), "--batch-size", size)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("run", type=Path)
    options.add_argument("--sizes", default="1,64")
    given = options.parse_args()
    machine = describe_machine()
    tables = [
        f"## {title}\n\n```\n{network(given.run, executor, given.sizes)}\n```"
        for executor, title in EXECUTORS.items()
    ]
    cascades = [f"```\n{cascade(given.run, size)}\n```" for size in given.sizes.split(",")]
    write_page(
        PAGE,
        f"""# Texts on the clock

Made by `python -m benchmarks.texts {given.run}`.

MiniLM with 6 layers and an exit after the embeddings and after every layer, frozen, on texts of BANKING77
([what it answers](banking77.md)). {machine["processor"]}, {machine["cores"]} cores. *original* is the network as one
piece, with its last exit alone.

{chr(10).join(tables)}

## Behind tf-idf

A cascade of character n-grams with a logistic regression, then the network. *the run's policy* is that of `exeunt
calibrate CASCADE --budget {CASCADE_BUDGET} --of time --delta none` at the same batch size, a share of what the network
takes; the others are for budgets of multiply-adds.

{chr(10).join(cascades)}
""",
    )


if __name__ == "__main__":
    main()
