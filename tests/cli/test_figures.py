"""The figures of `exeunt evaluate`: the sheet of images is left out where the data cannot be had."""

from __future__ import annotations

import pytest

from exeunt.cli import evaluate as figures
from exeunt.errors import ArtefactError, InputError, MissingExtra
from exeunt.run.folder import RunFolder

MANIFEST = {"inputs": {"kind": "image"}, "data": {"name": "somewhere", "label": None}, "split": {}}


@pytest.mark.parametrize("error", [InputError, ArtefactError, MissingExtra])
def test_figures_go_without_images_where_the_data_cannot_be_opened(tmp_path, monkeypatch, capsys, error):
    def refuse(*_: object, **__: object) -> None:
        raise error("no such thing")

    monkeypatch.setattr("exeunt.run.run_inputs.open_source", refuse)
    assert figures._test_image(RunFolder(tmp_path, MANIFEST)) is None
    assert "no sheet of images: no such thing" in capsys.readouterr().err
