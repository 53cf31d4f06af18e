"""A sentence encoder with exits on the clock: uncut, in stages and by a plan, in PyTorch and in ONNX Runtime.

    python benchmarks/texts.py RUN

RUN is a calibrated and exported run of texts, such as experiments/banking77.py leaves in runs/banking77/frozen. Each
table is what `exeunt bench RUN --profile` prints. Writes docs/results/texts-on-the-clock.md. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from exeunt.timing.interleaving import describe_machine

sys.path.append(str(Path(__file__).resolve().parents[1] / "experiments"))
from report import write_text_over_reading

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "texts-on-the-clock.md"
EXECUTORS = {"onnx": "ONNX Runtime", "eager": "PyTorch"}


def measured(run: str, executor: str, sizes: str) -> str:
    """Return what `exeunt bench` prints of an executor, without what it says of files."""
    command = ["bench", run, "--profile", "--executor", executor, "--batch-size", sizes]
    done = subprocess.run(
        [sys.executable, "-m", "exeunt", *command], stdout=subprocess.PIPE, text=True, check=True
    )
    return "\n".join(line for line in done.stdout.splitlines() if run not in line).strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--sizes", default="1,64")
    given = parser.parse_args()
    machine = describe_machine()
    tables = [
        f"## {title}\n\n```\n{measured(given.run, executor, given.sizes)}\n```"
        for executor, title in EXECUTORS.items()
    ]
    write_text_over_reading(
        PAGE,
        f"""# Texts on the clock

Made by `python benchmarks/texts.py {given.run}`.

MiniLM with 6 layers and an exit after the embeddings and after every layer, frozen, on texts of BANKING77
([what it answers](banking77.md)). {machine["processor"]}, {machine["cores"]} cores. *uncut* is the network as one
piece, with its last exit alone.

{chr(10).join(tables)}
""",
    )


if __name__ == "__main__":
    main()
