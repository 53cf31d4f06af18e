"""What is wrong in the file of a gateway is said, with the entry and what is allowed; and which folder it takes."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from exeunt._support.files import locked
from exeunt.cli.app import run as exeunt
from exeunt.errors import ArtefactError, ExeuntError, InputError
from exeunt.gateway.config import _OF_A_MODEL, Provider, read_config
from exeunt.gateway.folder import LOCK
from exeunt.gateway.gateway import Gateway
from exeunt.gateway.graders import grader_named
from exeunt.stream.records import Record

from .made_records import keep, units
from .made_state import made_policy
from .running_gateway import config_text, free_port, running

PRICE = "price: {input: 1, output: 1}"


def written(folder: Path, text: str) -> Path:
    file = folder / "gateway.yaml"
    file.write_text(text)
    return file


def model(options: str, name: str = "large") -> dict[str, str]:
    """Return the entries of a gateway whose reference has further options."""
    return {"models": f"{{{name}: {{provider: mock, {options}}}}}", "shadow": ""}


def shadow(options: str) -> dict[str, str]:
    return {"shadow": f"{{models: [small], spend: '1 usd', {options}}}"}


def promise(options: str) -> dict[str, str]:
    return {"promise": f"{{{options}}}"}


def provider(url: str, options: str = "failures: 3") -> dict[str, str]:
    return {"providers": f"{{mock: {{base_url: '{url}', {options}}}}}"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"reference": "other"}, "reference names 'other', and the models are small, large"),
        ({"reference": ""}, "reference is missing"),
        ({"shadow": "{models: [large], spend: '1 usd'}"}, "not the reference"),
        ({"shadow": "{models: [], spend: '1 usd'}"}, "shadow: models is empty"),
        (
            {"shadow": "{models: small, spend: '1 usd'}"},
            "shadow: models: give a list such as .*, got 'small'",
        ),
        ({"shadow": "{models: [small, small], spend: '1 usd'}"}, "shadow: models: 'small' is there twice"),
        (shadow("share: 110%"), "share is a share"),
        (shadow("share: yes"), "shadow: share: give a number, got True"),
        ({"shadow": "{models: [small]}"}, "shadow: spend is missing"),
        ({"shadow": "{models: [small], spend: '1 eur'}"}, "shadow: spend: prices are in usd, .* in eur"),
        ({"shadow": "{models: [small], spend: 5}"}, "shadow: spend: 5 has no unit: write '5 usd' in all, or"),
        (shadow("cap: 0.1"), "cap: 0.1 has no unit: write '0.1 usd'$"),
        (shadow("cap: '2 usd'"), "a comparison may cost 2 usd, more than"),
        (shadow("cap: '1 usd/day'"), "shadow: cap is an amount such as"),
        (shadow("opted_out: nobody"), "opted_out is reference or policy"),
        ({"spend": "{year: '1 usd'}"}, "spend: there is no 'year'; there are total, day, week, month, key"),
        (
            {"spend": "{month: '1 usd/month'}"},
            "spend: month is an amount such as '20 usd', got '1 usd/month'$",
        ),
        ({"spend": "{week: '-1 usd'}"}, "spend: week: an amount is a number from 0 to .*, got -1$"),
        (
            {"spend": "{day: '1 eur'}"},
            "spend: day: prices are in usd, and '1 eur' is in eur: write it in usd$",
        ),
        (
            {"spend": "{time_zone: Mars/Base}"},
            "spend: the time zone 'Mars/Base' is not known here: write a name",
        ),
        ({"spend": "{time_zone: 5}"}, "spend: time_zone: give a text, got 5"),
        (
            {"spend": "{warn: 0%}"},
            "spend: warn is a share of the limit above 0, up to 100%, such as 80%, got 0$",
        ),
        ({"spend": "{warn: 80}"}, "spend: warn is a share .*, got 80$"),
        ({"spend": "{warn: often}"}, "spend: warn: give a number, got 'often'"),
        (
            {"spend": "{webhook: 'ftp://a/b'}"},
            "spend: webhook is a URL that begins with http:// or https:// and",
        ),
        ({"spend": "{webhook: 'https://'}"}, "spend: webhook is a URL that begins with"),
        ({"spend": "{webhook: 'http://[a/b'}"}, "spend: webhook is a URL that begins with"),
        ({"spend": "{webhook: hook}"}, "spend: webhook is a URL .*: this does not$"),
        ({"spend": "{webhook: 5}"}, "spend: webhook: give a text, got 5"),
        (
            {"spend": "{key: '1 usd/year'}"},
            "spend: key: a rate is an amount per second, .*, got '1 usd/year'$",
        ),
        ({"spend": "{key: '-1 usd/month'}"}, "spend: key: an amount is a number from 0 to .*, got -1$"),
        ({"spend": "{total: '-1 usd'}"}, "spend: total: an amount is a number from 0 to .*, got -1$"),
        ({"spend": "{day: 20}"}, "spend: day: 20 has no unit: write '20 usd'$"),
        (
            {"listen": "{proxies: [10.0.0.7/8]}"},
            "proxies: 10.0.0.7/8 is within a network: write 10.0.0.0/8 for all",
        ),
        ({"listen": "{port: 99999}"}, r"listen: port must lie in \[0, 65535\], got 99999"),
        ({"listen": "{allowed_hosts: ['a:80']}"}, "listen: allowed_hosts must be a name .* without port"),
        ({"listen": "{max_open: 0}"}, "listen: max_open must be above 0"),
        ({"keep": "{days: 0}"}, "keep: days must be above 0, got 0"),
        ({"keep": "{features: true}"}, "a router needs both"),
        ({"features": "{}"}, "a router needs both"),
        ({"features": "{price: -1}", "keep": "{features: true}"}, "features: a price is .*, got -1"),
        ({"run_length": "0"}, "run_length must lie in"),
        ({"units": "session"}, "units are request, conversation, user, got 'session'"),
        ({"unit_idle": "5"}, "unit_idle: give a duration such as '30 s', '1 h' or '1 day', got 5"),
        ({"period": "0 s"}, "period must be above 0"),
        ({"min_periods": "0"}, "min_periods must be at least 1, got 0"),
        (promise(""), "promise: give max_loss, such as 5%, or budget, such as 40%, or both"),
        (promise("max_loss: 0%"), "promise: max_loss must lie"),
        (promise("max_early_loss: 0%"), "promise: max_early_loss must lie"),
        (
            promise("max_early_worse: 10"),
            "promise: max_early_worse is a share .*, got 10: write 10% if 10 in 100",
        ),
        (
            promise("max_tail: ['1 usd', 1%]"),
            "promise: give max_loss, .* \\(max_tail alone is kept by asking the",
        ),
        (promise("max_loss: 5%, max_tail: ['1 usd']"), "promise: max_tail is an amount and a share, such as"),
        (promise("max_loss: 5%, max_tail: 1 usd"), "promise: max_tail: give a list such as"),
        (
            promise("max_loss: 5%, max_tail: ['1 usd', 0%]"),
            r"promise: the share of max_tail must lie in \(0, 1\)",
        ),
        (
            promise("max_loss: 5%, max_tail: ['1 usd', few]"),
            "promise: the share of max_tail: give a number, got 'few'",
        ),
        (promise("max_loss: 5%, max_tail: ['0 usd', 1%]"), "promise: the amount of max_tail must be above 0"),
        (
            promise("max_loss: 5%, max_tail: ['5 eur', 1%]"),
            "promise: budget '5 eur' is neither a share nor in usd",
        ),
        (promise("max_loss: 5"), "promise: max_loss is a share .*, got 5: write 5% if 5 in 100 is meant"),
        (promise("max_loss: 5%, delta: 1"), "promise: delta is a share .*, got 1: write 1%"),
        (
            promise("max_loss: 5%, delta: 90%"),
            "promise: delta is the probability .* for 90% confidence write 0.1",
        ),
        (
            promise("budget: 0.4"),
            "budget: 0.4 has no unit: write '40%' of the reference's cost, or '0.4 usd' a",
        ),
        (
            promise("budget: 0.002 eur"),
            "'0.002 eur' is neither a share nor in usd: .*'40%', or .*'0.002 usd'$",
        ),
        (promise("budget: 120%"), "promise: budget is a share of the reference's cost below 100%"),
        (promise("budget: '40'"), "promise: budget 40 has no unit: write 40%, or '40 usd'"),
        (promise("budget: 5%"), "no compared model costs as little as 0.05 of large: .* it is 0.1 at least"),
        ({**promise("max_loss: 5%"), "shadow": ""}, "name the models in shadow"),
        ({"folder": "''"}, "folder is empty"),
        ({"models": ""}, "models is missing"),
        ({"models": "{a: {provider: other, price: {}}}"}, "model 'a': provider is one of mock, got 'other'"),
        ({"models": "{a: {provider: mock}}"}, "model 'a': price is missing"),
        ({**model(PRICE, "'auto:x'"), "reference": "'auto:x'"}, "does not start with auto"),
        (model("price: 2"), "model 'large': price must hold options by name, got 2"),
        (
            model(f"{PRICE}, tool: true"),
            "model 'large': there is no 'tool'; there are provider, model, price",
        ),
        (model(f"{PRICE}, tools: 'no'"), "model 'large': tools: give true or false, got 'no'"),
        (model(f"{PRICE}, max_tokens: 4k"), "model 'large': max_tokens: give a whole number, got '4k'"),
        (model(f"{PRICE}, template_tokens: -1"), "model 'large': template_tokens must be .*, got -1"),
        (model(f"{PRICE}, image_tokens: -1"), "model 'large': image_tokens must be at least 0, got -1"),
        (
            {**model("price: {input: 2, output: 8}"), "spend": "{request: '0.01 usd'}"},
            r"tokens \(max_tokens\) may cost 0.03328 usd, .*: set max_tokens to 1,186 or fewer, or let a request cost",
        ),
        ({**model(PRICE), "spend": "{request: '0 usd'}"}, r"\(request of spend\): let a request cost more"),
        (provider("ftp://x"), "such as https"),
        (provider("http://x/v1/chat/completions"), "write 'http://x/v1'"),
        (provider("http://x", "failures: 0"), "failures must be at least 1"),
        (provider("http://x", "max_answer: 0"), "provider 'mock': max_answer must be above 0, got 0"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path: Path, more: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_config(written(tmp_path, config_text("http://127.0.0.1:1", **more)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [\nproviders", "gateway.yaml is not YAML: .* in line 2"),
        ("reference: a\nproviders: {}\nreference: b", "gateway.yaml, line 3: reference is there twice"),
        ("text", "the file must hold options by name, got 'text'"),
    ],
)
def test_what_is_no_configuration_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_config(written(tmp_path, text))


@pytest.mark.parametrize("name", ["shadow", "features", "spend", "keep", "listen", "promise"])
def test_a_part_with_nothing_in_it_is_as_if_it_were_not_there(tmp_path: Path, name: str) -> None:
    more = {"shadow": "", "spend": "", name: "null"}
    config = read_config(written(tmp_path, config_text("http://127.0.0.1:1/v1", **more)))
    bare = read_config(written(tmp_path, config_text("http://127.0.0.1:1/v1", shadow="", spend="")))
    assert getattr(config, name) == getattr(bare, name)
    assert config.offered == bare.offered


def test_a_router_may_look_at_lengths_alone(tmp_path: Path) -> None:
    more = {"features": "{}", "keep": "{features: true}", "run_length": "1e5"}
    config = read_config(written(tmp_path, config_text("http://127.0.0.1:1", **more)))
    assert config.features.encoder is None
    assert config.run_length == 100_000


def test_a_grader_beside_the_file_is_found_unless_others_may_write_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = [*sys.path]
    (tmp_path / "beside_file.py").write_text("def grade(request, answer, reference):\n    return 0.25\n")
    shadow = "{models: [small], spend: '5 usd', grader: 'beside_file:grade'}"
    file = written(tmp_path, config_text("http://127.0.0.1:1", shadow=shadow))
    tmp_path.chmod(0o777)
    with pytest.raises(InputError, match=r"gateway\.yaml: others may write to .*: `chmod go-w"):
        read_config(file)
    assert sys.path == before
    tmp_path.chmod(0o700)
    assert read_config(file).shadow.grader == "beside_file:grade"
    assert sys.path[-1] == str(tmp_path)
    assert grader_named("beside_file:grade")({}, {}, {}) == 0.25


def test_a_folder_that_holds_other_files_is_left_alone(tmp_path: Path) -> None:
    file = written(tmp_path, config_text("http://127.0.0.1:1", folder="."))
    mode = tmp_path.stat().st_mode
    with pytest.raises(
        InputError, match=r"holds other files, such as gateway\.yaml: give the gateway a folder"
    ):
        exeunt(["gateway", "keys", str(file), "--add", "a"])
    assert tmp_path.stat().st_mode == mode
    assert [one.name for one in tmp_path.iterdir()] == ["gateway.yaml"]


def test_a_grader_that_cannot_be_opened_is_told_with_the_file(tmp_path: Path) -> None:
    shadow, listen = "{models: [small], spend: '5 usd', grader: 'no_such:grade'}", f"{{port: {free_port()}}}"
    file = written(tmp_path, config_text("http://127.0.0.1:1", shadow=shadow, listen=listen))
    for option in ("--add", "--add-admin"):
        exeunt(["gateway", "keys", str(file), option, option.strip("-")])
    with pytest.raises(
        InputError, match=f"^{file}: .*no module no_such: write `def grade.*beside the YAML file"
    ):
        exeunt(["gateway", str(file)])


def test_the_page_tells_each_option_of_providers_and_models() -> None:
    page = (Path(__file__).parents[2] / "docs" / "howto" / "gateway.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    told = {name.partition(":")[0] for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert {one.name for one in fields(Provider)} | set(_OF_A_MODEL) <= told


def test_a_start_that_fails_makes_no_folder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        file = written(tmp_path, config_text("http://127.0.0.1:1", listen=f"{{port: {port}}}"))
        message = rf"^port {port} at 127\.0\.0\.1 is in use: .* choose another port by `listen: {{port: "
        with pytest.raises(InputError, match=message):
            exeunt(["gateway", str(file)])
    for options, message in (
        (["serve"], "clients have no key yet: .*; who administers the gateway has no key yet"),
        (["forget", "a"], "there is no folder .*gateway yet: the first key makes it"),
        (["money", "--book", "large", "--reason", "x"], "there is no folder"),
        (["labels", "--count", "3"], "there is no folder"),
    ):
        with pytest.raises(InputError, match=message):
            exeunt(["gateway", options[0], str(file), *options[1:]])
    assert [one.name for one in tmp_path.iterdir()] == ["gateway.yaml"]


def test_looking_at_money_and_keys_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(written(tmp_path, config_text("http://127.0.0.1:1", spend="{day: '20 usd'}")))
    exeunt(["gateway", "keys", file, "--add", "shop"])
    before = {path.name: path.read_bytes() for path in (tmp_path / "gateway").iterdir()}
    capsys.readouterr()
    exeunt(["gateway", "money", file])
    assert re.search(r"^each day +20 usd/day +0 usd +20\.00 usd$", capsys.readouterr().out, re.M)
    exeunt(["gateway", "keys", file])
    with pytest.raises(InputError, match="'large' is not stopped"):
        exeunt(["gateway", "money", file, "--resume", "large"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "gateway").iterdir()} == before


def test_two_gateways_do_not_run_in_a_folder(tmp_path: Path) -> None:
    with running(tmp_path) as run, locked(run.gateway.folder / LOCK, ""):
        other = written(tmp_path, config_text("http://127.0.0.1:1", listen=f"{{port: {free_port()}}}"))
        message = f"a gateway runs in {run.gateway.folder} already, and one folder takes one gateway: stop that one, or"
        with pytest.raises(InputError, match=message) as error:
            exeunt(["gateway", str(other)])
        assert "wait" not in str(error.value)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda file: file.write_bytes(b""), "holds 0 bytes, and a secret has 32 bytes: restore it"),
        (lambda file: file.write_bytes(bytes(33)), "holds more, and a secret has 32 bytes: restore it"),
        (lambda file: file.mkdir(), "a folder is in its place, move it away; restore it"),
        (lambda file: file.symlink_to("nowhere"), "no such file or directory; restore it"),
        (os.mkfifo, "a pipe, a socket or a device is in its place, move it away; restore it"),
    ],
)
def test_a_secret_that_cannot_be_one_is_refused_and_never_replaced(
    tmp_path: Path, made: Callable[[Path], Any], message: str
) -> None:
    config = read_config(written(tmp_path, config_text("http://127.0.0.1:1")))
    file = tmp_path / "gateway" / "secret.key"
    Gateway(config)  # a new folder gets one
    assert len(file.read_bytes()) == 32
    assert file.stat().st_mode & 0o77 == 0
    file.unlink()
    made(file)
    before = file.lstat()
    with pytest.raises(ExeuntError, match=rf"secret\.key.*{message}"):
        Gateway(config)
    assert (file.lstat().st_ino, file.lstat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_secret_that_is_missing_is_made_anew_only_before_there_are_records(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, config_text("http://127.0.0.1:1")))
    folder = tmp_path / "gateway"
    file = folder / "secret.key"

    def made() -> bytes:
        Gateway(config)
        return file.read_bytes()

    first = made()
    file.unlink()  # nothing was recorded
    second = made()
    keep(folder, units(1)).close()
    file.unlink()
    why = r"would count as new: restore it from a copy; or begin anew.* records\.db\*"
    with pytest.raises(ArtefactError, match=why):
        Gateway(config)
    assert not file.exists()
    file.write_bytes(second)
    assert made() == second
    file.unlink()
    for one in folder.glob("records.db*"):  # the other way that the message names
        one.rename(tmp_path / one.name)
    assert len({first, second, made()}) == 3


def test_who_moves_the_records_away_keeps_keys_limits_of_money_and_policies(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, config_text("http://127.0.0.1:1", spend="{total: '9 usd'}")))
    gateway = Gateway(config)
    key = gateway.keys.add("shop", spend="2 usd")
    gateway.policies.add(made_policy())
    gateway.live.activate("p1")
    held = gateway.money.of(gateway.keys.named("shop")).reserve(1.5)
    held.dispatch()
    held.settle()
    gateway.records.add(Record(7, 0.0, "shop", "0b", {}))
    asyncio.run(gateway.close())
    for file in gateway.folder.glob("records.db*"):
        file.rename(tmp_path / file.name)
    anew = Gateway(config)
    assert anew.records.latest_number() == 0
    assert anew.keys.of(key.encode()).spend == "2 usd"
    assert (anew.money.total.left, anew.money.of(anew.keys.named("shop")).left) == (7.5, 0.5)
    assert (anew.policies.names, anew.live.active.name) == (("p1",), "p1")
    asyncio.run(anew.close())
