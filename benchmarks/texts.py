"""A sentence encoder with exits on the clock: original, in stages and by a plan, in PyTorch and in ONNX Runtime.

    python -m benchmarks.texts RUN

RUN is a calibrated and exported run of texts, such as `experiments.banking77 --train` leaves in
runs/banking77/frozen. Each table is what `exeunt bench RUN --profile` prints. Writes
docs/results/texts-on-the-clock.md. Run it on an idle machine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from experiments.pages import RESULTS, parser, write_page

from exeunt.timing.timing_tools import describe_machine

PAGE = RESULTS / "texts-on-the-clock.md"
EXEUNT = (sys.executable, "-m", "exeunt")
EXECUTORS = {"onnx": "ONNX Runtime", "eager": "PyTorch"}


def printed(run: Path, executor: str, sizes: str, *options: str) -> str:
    """Return the table of the network that `exeunt bench` prints, without its lines about files."""
    command = [*EXEUNT, "bench", str(run), "--executor", executor, "--batch-size", sizes, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return "\n".join(line for line in done.stdout.splitlines() if str(run) not in line).strip()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("run", type=Path)
    options.add_argument("--sizes", default="1,64")
    given = options.parse_args()
    machine = describe_machine()
    tables = [
        f"## {title}\n\n```\n{printed(given.run, executor, given.sizes, '--profile')}\n```"
        for executor, title in EXECUTORS.items()
    ]
    write_page(
        PAGE,
        f"""# Texts on the clock

Made by `python -m benchmarks.texts {given.run}`.

MiniLM with 6 layers and an exit after the embeddings and after every layer, frozen, on texts of BANKING77
([what it answers](banking77.md)). {machine["processor"]}, {machine["cores"]} cores. *original* is the network as one
piece, with its last exit alone.

{chr(10).join(tables)}
""",
    )


if __name__ == "__main__":
    main()
