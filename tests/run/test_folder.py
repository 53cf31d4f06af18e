"""The bundle: whole or refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import exeunt as ex
from exeunt._sealed import content_digest
from exeunt.run.folder import Bundle, provenance

ABOUT = {
    "model": {"spec": "torchvision:resnet18", "weights": None, "n_classes": 4},
    "network": {"exits": ("layer1", "layer2"), "head": "grid"},
    "inputs": {"kind": "image"},
    "class_names": ["ant", "bee", "cow", "dog"],
    "data": {"name": "animals", "label": None, "fingerprint": "0"},
    "split": {},
    "training": {"mode": "frozen"},
    "provenance": provenance(["numpy", "no-such-package"], command="test", seed=3),
}


@pytest.fixture
def trace() -> ex.ExitTrace:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), size=(60, 3))
    return ex.ExitTrace.from_probabilities(
        probabilities, cost=ex.CostModel([1.0, 2.0, 3.5]), label=rng.integers(0, 4, 60)
    )


@pytest.fixture
def bundle(trace, tmp_path) -> Bundle:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "weights.safetensors").write_bytes(b"weights")
    fit, calibrate, test = trace.split(fit=0.3, calibrate=0.3, test=0.4)
    return Bundle.create(
        tmp_path / "run",
        cost=trace.cost,
        traces={"fit": fit, "calibrate": calibrate, "test": test},
        about=ABOUT,
    )


def test_reads_back_what_was_written(bundle, trace):
    again = Bundle.open(bundle.path)
    assert again.manifest == bundle.manifest
    assert again.cost == trace.cost
    for part in ("fit", "calibrate", "test"):
        np.testing.assert_array_equal(again.trace(part).id, bundle.trace(part).id)
    assert again.manifest["provenance"]["seed"] == 3
    assert set(again.manifest["provenance"]["packages"]) == {"numpy"}


def test_policy_comes_and_is_replaced(bundle):
    assert not bundle.has_policy
    with pytest.raises(ex.InputError, match="exeunt calibrate"):
        _ = bundle.policy
    for budget in ("50%", "70%"):
        policy = ex.eero(bundle.trace("fit"), bundle.trace("calibrate"), budget=budget)
        bundle.save_policy(policy)
        assert Bundle.open(bundle.path).policy == policy


def test_refuses_what_is_not_a_bundle(tmp_path):
    with pytest.raises(ex.InputError, match="does not exist"):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(ex.InputError, match="is not a bundle"):
        Bundle.open(tmp_path)
    (tmp_path / "bundle.json").write_text('{"format": "something else"}')
    with pytest.raises(ex.ArtefactError, match="not a manifest"):
        Bundle.open(tmp_path)


def test_unfinished_run_says_how_to_go_on(tmp_path):
    (tmp_path / "training").mkdir()
    with pytest.raises(ex.InputError, match="same command again"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("name", ["weights.safetensors", "costs.json", "traces/test.parquet"])
@pytest.mark.parametrize("harm", ["edit", "truncate", "remove"])
def test_refuses_damage(bundle, name, harm):
    file = bundle.path / name
    content = file.read_bytes()
    if harm == "edit":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "truncate":
        file.write_bytes(content[:-1])
    else:
        file.unlink()
    with pytest.raises(ex.ArtefactError, match=name):
        Bundle.open(bundle.path)


def _rewrite(bundle, manifest):
    (bundle.path / "bundle.json").write_text(json.dumps(manifest))


def _edit_manifest(bundle, **changes):
    """Change the manifest and make its digest fit."""
    body = {name: value for name, value in {**bundle.manifest, **changes}.items() if name != "sha256"}
    _rewrite(bundle, body | {"sha256": content_digest(body)})


def test_refuses_newer_version(bundle):
    _edit_manifest(bundle, version=99)
    with pytest.raises(ex.ArtefactError, match=r"99.*upgrade"):
        Bundle.open(bundle.path)


def test_refuses_files_outside(bundle):
    outside = bundle.path.parent / "outside"
    outside.write_bytes(b"x")
    _edit_manifest(bundle, files=bundle.manifest["files"] | {"../outside": "0"})
    with pytest.raises(ex.ArtefactError, match="outside"):
        Bundle.open(bundle.path)


def test_refuses_truncated_manifest(bundle):
    file = bundle.path / "bundle.json"
    file.write_text(file.read_text()[:-20])
    with pytest.raises(ex.ArtefactError, match="truncated"):
        Bundle.open(bundle.path)


def test_no_bundle_without_weights(trace, tmp_path):
    with pytest.raises(ex.InputError, match="weights"):
        Bundle.create(tmp_path, cost=trace.cost, traces={}, about={})


@pytest.mark.parametrize(
    "changes", [{"class_names": ABOUT["class_names"][::-1]}, {"sha256": "0"}, {"sha256": None}, {"more": 1}]
)
def test_refuses_an_edited_manifest(bundle, changes):
    _rewrite(bundle, bundle.manifest | changes)
    with pytest.raises(ex.ArtefactError, match=r"bundle\.json was edited"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("value", [None, 3, "text", [], {}])
@pytest.mark.parametrize("name", [*ABOUT, "files"])
def test_refuses_a_manifest_that_lacks_what_it_must_say(bundle, name, value):
    if type(value) is type(bundle.manifest[name]) and name in (
        "split",
        "training",
        "provenance",
        "class_names",
    ):
        value = [1, 2] if isinstance(value, list) else 3
    _edit_manifest(bundle, **{name: value})
    with pytest.raises(ex.ArtefactError, match=r"bundle\.json (is damaged|does not name)"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("part", ["fit", "calibrate", "test"])
def test_refuses_a_manifest_without_a_trace(bundle, part):
    files = {name: digest for name, digest in bundle.manifest["files"].items() if part not in name}
    _edit_manifest(bundle, files=files)
    with pytest.raises(ex.ArtefactError, match=rf"does not name the files traces/{part}\.parquet"):
        Bundle.open(bundle.path)


def test_refuses_a_manifest_without_its_digest(bundle):
    _rewrite(bundle, {name: value for name, value in bundle.manifest.items() if name != "sha256"})
    with pytest.raises(ex.ArtefactError, match="digest does not match"):
        Bundle.open(bundle.path)
