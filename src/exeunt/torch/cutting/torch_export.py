"""Turning a model into a graph with `torch.export`, in two ways; and which line of its code prevents that.

The first way runs the Python code on symbolic sizes. It is fast and handles nearly all code, but a function that must
return a plain number, such as `len(x)`, fixes the batch size. The second way (`strict`) reads the byte code, where
`len(x)` stays a symbol. It is slower and handles less code, so it is tried only if the first fails.
"""

from __future__ import annotations

import io
import linecache
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, export

from exeunt.errors import InputError, NotExportable, one_line
from exeunt.torch.calls import evaluating
from exeunt.torch.named_inputs import ExampleBatch, token_inputs

_TOOLS = (Path(torch.__file__).parent, Path(__file__).parents[1])
_PYTHON = Path(traceback.__file__).parent
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_KNOWN_REASONS = {
    "specialized it to be a constant": "turns the number of inputs into a plain number. Use x.shape[0] as it is, and "
    "operations on all rows at once: no int(), no loop over rows, no comparison with a number",
    "data-dependent": "decides by the values of the inputs. Compute both ways and choose with torch.where",
}
"""What is wrong with the code, and how to mend it, by a part of PyTorch's message in lower case."""


def exported(model: nn.Module, example: ExampleBatch, *, open_length: bool = False) -> ExportedProgram:
    """Return the graph of a model in eval mode, with a variable batch size. The example needs two rows or more.

    `open_length`: the length of texts may vary, too, unless the model's code makes it a constant.
    Raises NotExportable, with the line of code that prevents it and how to mend it, as far as these are known.
    """
    batch, errors = Dim("batch"), list[Exception]()
    texts = token_inputs(example.named) if open_length else ()
    # AUTO, not a second named Dim: that would need the longest length that the model takes.
    shapes = (tuple({0: batch, 1: Dim.AUTO} if name in texts else {0: batch} for name in example.names),)
    for strict in (False, True):
        try:
            # Without gradients, because a `torch.no_grad` inside the model would become a nested graph.
            with evaluating(model), torch.no_grad(), quiet():
                program = export(
                    example.positional(model), example.tensors, dynamic_shapes=shapes, strict=strict
                )
        except InputError:
            raise
        except Exception as error:  # of many types, depending on what the model does
            errors.append(error)
            continue
        _remove_checks(program.graph_module.graph)
        return program
    cause = next((error for error in errors if _place(error)), errors[0])
    known = (reason for sign, reason in _KNOWN_REASONS.items() if sign in str(cause).lower())
    raise NotExportable(
        f"{type(model).__name__} cannot be exported with a variable batch size: "
        f"{_place(cause) or 'its code'} {next(known, f'fails: {one_line(cause)}')}"
    ) from cause


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what PyTorch's exporters log, warn and print (half a graph): their errors say what matters."""
    log = logging.getLogger("torch")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _place(error: Exception) -> str:
    """Return where the model's code raised an error, with the line itself; "" if that is not known."""
    frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    # The second way does not run the code: only its message names the line.
    frames += [(file, int(line)) for file, line in _FRAME.findall(str(error))]
    lines = [
        (file, line, code)
        for file, line in frames
        if _is_model_code(file) and (code := linecache.getline(file, line).strip())
    ]
    if not lines:
        return ""
    file, line, code = lines[-1]
    return f"line {line} of {file}, `{code}`,"


def _is_model_code(file: str) -> bool:
    """Return whether a file of code is neither PyTorch's, nor this package's, nor Python's own."""
    path = Path(file)
    own = any(path.is_relative_to(folder) for folder in _TOOLS)
    pythons = path.is_relative_to(_PYTHON) and "site-packages" not in path.parts
    return path.is_absolute() and not own and not pythons


def _remove_checks(graph: fx.Graph) -> None:
    """Remove assertions, and the code that only they use."""
    for node in list(graph.nodes):
        if node.op == "call_function" and "_assert" in str(node.target) and not node.users:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    graph.lint()


def placeholders(
    program: ExportedProgram, model: nn.Module
) -> tuple[dict[fx.Node, tuple[str, Tensor]], list[fx.Node]]:
    """Return the placeholders of the model's own tensors, each with its name and tensor, and those of its inputs."""
    own = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    tensors = {**program.constants, **{f"model.{name}": tensor for name, tensor in own}}
    targets = {s.arg.name: s.target for s in program.graph_signature.input_specs if s.target is not None}
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    constants = {
        node: (target.removeprefix("model."), tensors[target])
        for node in nodes
        if (target := targets.get(node.name)) is not None
    }
    return constants, [node for node in nodes if node not in constants]
