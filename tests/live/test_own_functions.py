"""Functions of one's own lie beside the YAML file that names them: after installed ones, and written by no others."""

import os
import sys

import pytest

pytest.importorskip("yaml")

from exeunt.errors import InputError
from exeunt.live import own_functions
from exeunt.live.function_model import FeatureModel, FunctionModel
from exeunt.live.models_file import read_models

SAY = "def say(given):\n    return 'yes', 1.0\n"
MODEL = "one: {{function: '{}', price: 0}}"


@pytest.fixture(autouse=True)
def _own_path(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(own_functions, "_appended", set())
    yield
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def written(folder, module, text=SAY, *, name="say"):
    (folder / f"{module}.py").write_text(text)
    (folder / "models.yaml").write_text(MODEL.format(f"{module}:{name}"))
    return folder / "models.yaml"


def test_modules_beside_the_file_come_last_and_can_import_later(tmp_path):
    before = [*sys.path]
    (tmp_path / "own_rules.py").write_text("ANSWER = 'late'\n")
    text = "def say(given):\n    import own_rules\n    return own_rules.ANSWER, 1.0\n"
    models = read_models(written(tmp_path, "own_saying", text))
    assert sys.path == [*before, str(tmp_path)]
    assert models["one"].function("x") == ("late", 1.0)
    read_models(tmp_path / "models.yaml")
    assert sys.path == [*before, str(tmp_path)]


def test_a_folder_is_looked_in_once_for_all_functions(tmp_path):
    before = [*sys.path]
    (tmp_path / "own_parts").mkdir()  # without __init__.py
    for part in ("one", "two", "one"):
        (tmp_path / "own_parts" / f"{part}.py").write_text(SAY)
        own_functions.find_beside(f"own_parts.{part}:say", tmp_path)
    assert sys.path == [*before, str(tmp_path)]


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
@pytest.mark.parametrize("package", [False, True])
def test_further_code_of_a_folder_is_checked_too(tmp_path, package):
    """Once the folder is looked in, its modules are found as installed ones are."""
    (tmp_path / "own_pack").mkdir()
    (tmp_path / "own_pack" / "__init__.py").write_text("")
    (tmp_path / "own_pack" / "first.py").write_text(SAY)
    (tmp_path / "models.yaml").write_text(MODEL.format("own_pack.first:say"))
    assert read_models(tmp_path / "models.yaml")
    later = tmp_path / ("own_pack/later.py" if package else "own_later.py")
    later.write_text(SAY)
    later.chmod(0o666)
    (tmp_path / "models.yaml").write_text(MODEL.format("own_pack.later:say" if package else "own_later:say"))
    with pytest.raises(InputError, match=f"others may write to {later}"):
        read_models(tmp_path / "models.yaml")


def test_no_file_takes_the_place_of_an_installed_module(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    file = written(tmp_path, "colorsys")
    why = r"the module colorsys, .*, has no say: .* a name that no installed one"
    with pytest.raises(InputError, match=why):
        read_models(file)
    assert str(tmp_path) not in sys.path
    assert hasattr(sys.modules["colorsys"], "rgb_to_hsv")


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path, mode):
    file = written(tmp_path, "own_open")
    tmp_path.chmod(mode)
    why = rf"model 'one' of .*: others may write to .*: `chmod go-w {tmp_path}`"
    with pytest.raises(InputError, match=why):
        read_models(file)
    assert "own_open" not in sys.modules
    tmp_path.chmod(0o755)
    assert read_models(file)


@pytest.fixture
def packed(tmp_path):
    """The YAML file of a function in a package, of which a part has no `__init__.py`."""
    parts = tmp_path / "own_pack" / "parts"
    parts.mkdir(parents=True)
    for file, text in {"own_pack/__init__.py": "", "own_pack/parts/one.py": SAY}.items():
        (tmp_path / file).write_text(text)
    for place in (tmp_path, parts.parent, parts, parts.parent / "__init__.py", parts / "one.py"):
        place.chmod(0o755)
    (tmp_path / "models.yaml").write_text(MODEL.format("own_pack.parts.one:say"))
    return tmp_path / "models.yaml"


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
@pytest.mark.parametrize("place", ["", "/__init__.py", "/parts", "/parts/one.py"])
def test_code_that_others_may_write_to_is_refused(packed, place):
    found = packed.parent / f"own_pack{place}"
    found.chmod(0o757)
    with pytest.raises(InputError, match=rf"others may write to {found}, .*: `chmod go-w {found}`"):
        read_models(packed)
    assert "own_pack" not in sys.modules
    found.chmod(0o755)
    assert read_models(packed)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("place", ["own_pack/parts/one.py", "."])
def test_code_or_a_folder_of_another_user_is_refused(packed, place):
    foreign = packed.parent / place
    os.chown(foreign, 65_534, -1)
    with pytest.raises(InputError, match=f"{foreign.name}.* belongs to another user"):
        read_models(packed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("other = max\n", r"has no say: write `def say\(given\)`, which returns an answer and its conf"),
        ("say = 3\n", r"is no function, it is int: write `def say\(given\)`"),
        ("def say(): 0\n", r"say\(\) cannot be called as it is: too many .*; write `def say\(given\)`"),
        ("def say(a, model): 0\n", r"missing a required argument: 'model'; write `def say\(given\)`"),
        ("import own_not_there\n", "cannot be made: ModuleNotFoundError: No module named 'own_not_there'"),
    ],
)
def test_a_wrong_function_is_told_how_to_be_written(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_models(written(tmp_path, "own_wrong", text))


def test_a_missing_module_is_told_where_to_be_written(tmp_path):
    (tmp_path / "models.yaml").write_text("told: {features: 'own_missing.of:told', price: 0}")
    wanted = r"write `def told\(given\)`, which returns a list of numbers, into own_missing/of\.py"
    with pytest.raises(InputError, match=f"no module own_missing.of: {wanted}"):
        read_models(tmp_path / "models.yaml")


@pytest.mark.parametrize("kind", [FunctionModel, FeatureModel])
def test_a_function_in_python_is_checked_alike(kind):
    with pytest.raises(InputError, match=r"<lambda>\(\) cannot be called as it is"):
        kind(lambda: 1, price=0)
    kind(str.upper, price=0)
    kind(max, price=0)  # which does not tell what it takes
