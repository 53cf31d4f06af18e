"""`exeunt gateway certify` with the folder of a gateway: what is certified now, and what it refuses."""

import json

import pytest
from tests.cli.command import exeunt
from tests.gateway.made_records import MODELS, records

from exeunt.gateway.certification_status import STATUS
from exeunt.stream.records import Records

TEXT = "p1\nGuarantee: with probability 95% over all looks and questions together, nothing is lost."


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gateway") / "gateway"
    folder.mkdir()
    MODELS.write(folder)
    kept = Records(folder)
    setting = kept.setting({"identity": {}, "grader": ""}, 0.0)
    for record in records(60, setting=setting):
        kept.add(record)
    kept.close()
    return folder


def test_what_is_certified_is_shown_as_often_as_one_likes(recorded):
    assert "nothing is known yet" in exeunt("gateway", "certify", "gateway", cwd=recorded.parent).stdout
    kept = Records(recorded)
    kept.keep(STATUS, {"text": TEXT})
    kept.close()
    for _ in range(2):
        said = exeunt("gateway", "certify", "gateway", cwd=recorded.parent).stdout
        assert TEXT in said
        assert "report: gateway/report.html" in said


def test_grades_are_compared_with_labels(recorded, tmp_path):
    labels = [{"request": record.request, "model": "small", "grade": 1} for record in records(60)[:50]]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)))
    said = exeunt("gateway", "certify", str(recorded), "--labels", "labels.jsonl", cwd=tmp_path).stdout
    right = sum(record.said["small"].grade for record in records(60)[:50])
    assert f"Of 50 labels the grade agrees with {right / 50:.1%} (95% interval " in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-loss", "5%"], "No such option: --max-loss"),
        (["--labels", "none"], "cannot read the labels in none"),
    ],
)
def test_what_is_refused(recorded, options, said):
    done = exeunt("gateway", "certify", "gateway", *options, cwd=recorded.parent, ok=False)
    assert done.returncode == 2
    assert said in done.stderr
