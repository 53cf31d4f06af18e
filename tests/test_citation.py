"""`CITATION.cff` and the FAQ name the same paper, and `SECURITY.md` what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_citation_is_that_of_the_faq():
    yaml = pytest.importorskip("yaml")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    paper = cited["preferred-citation"]
    entry = re.search(r"@inproceedings\{.*?\n\}", (ROOT / "docs" / "faq.md").read_text(), re.DOTALL)[0]
    fields = {name: re.sub(r"[{}]", "", text) for name, text in re.findall(r"(\w+) += \{(.*)\},?\n", entry)}
    names = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    assert (paper["title"], names) == (fields["title"], fields["author"])
    assert f"{paper['start']}--{paper['end']}" == fields["pages"]
    assert (str(paper["volume"]), str(paper["year"])) == (fields["volume"], fields["year"])
    assert paper["collection-title"] == fields["booktitle"]
    assert cited["cff-version"] == "1.2.0"
    assert f'license = "{cited["license"]}"' in (ROOT / "pyproject.toml").read_text()


def test_links_of_the_security_page_lead_somewhere():
    for file, anchor in re.findall(r"\]\(([\w/.-]+)#([\w-]+)\)", (ROOT / "SECURITY.md").read_text()):
        titles = re.findall(r"^#+ (.*)$", (ROOT / file).read_text(), re.MULTILINE)
        assert anchor in [title.lower().replace(" ", "-") for title in titles]
