"""Whatever goes wrong is one or two lines on standard error: no traceback, unless `--debug` asks for it."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys

import pytest

from exeunt.cli.main import described
from exeunt.cli.options import interruptible
from exeunt.errors import InputError, MissingExtra
from exeunt.runs.folder import RunFolder

from .command import called, environment


@pytest.mark.parametrize(
    ("arguments", "told", "command"),
    [
        ("trian", "No such command 'trian'", "exeunt"),
        ("train --model m", "Missing option '--data'", "exeunt train"),
        ("train --epochs", "'--epochs' requires an argument", "exeunt train"),
        ("train --epochs many", "'--epochs'.*'many'", "exeunt train"),
        ("train --epochs 0", "'--epochs'.*1.*'?0'?", "exeunt train"),
        ("bench --epoch 3 run", "No such option: --epoch", "exeunt bench"),
        ("show", "Missing argument 'RUN'", "exeunt show"),
    ],
)
def test_what_the_parser_refuses(arguments, told, command):
    done = called(arguments)
    first, second = done.err.splitlines()
    assert (done.status, done.out) == (2, "")
    assert re.search(f"^exeunt: .*{told}", first)
    assert second == f"`{command} --help` lists what can be given"


def test_without_arguments_the_help_is_shown():
    assert called().out == called("--help").out
    assert called("--version").status == called().status == 0


def raising(error):
    """Return what raises an error, whatever it is called with."""

    def fail(*_, **__):
        raise error

    return fail


@pytest.fixture
def shown(monkeypatch):
    """Return a function from an error to what `show` makes of it, where that is raised as the run is opened."""

    def show(error, *arguments):
        monkeypatch.setattr(RunFolder, "open", raising(error))
        return called(*(arguments or ("show run",)))

    return show


def test_a_fault_of_ours_is_two_lines_and_the_traceback_where_asked_for(shown):
    fault = KeyError("no such key\nand a table of them")
    told = "exeunt: unexpected KeyError: 'no such key\\nand a table of them'\nadd --debug to see where\n"
    assert shown(fault) == (1, "", told)
    for arguments in ("--debug show run", "show --debug run", "show run --debug"):
        err = shown(fault, arguments).err
        assert "Traceback" in err
        assert err.endswith(told)


@pytest.mark.parametrize(
    ("error", "status"), [(InputError("wrong"), 2), (MissingExtra("install it"), 3), (ValueError(), 1)]
)
def test_the_exit_status_tells_what_kind_of_error_it_was(shown, error, status):
    assert shown(error).status == status


def test_a_run_that_is_missing_is_told_before_a_missing_budget(tmp_path):
    assert "nofolder does not exist: give a run folder" in called("calibrate", tmp_path / "nofolder").err


def _wrapped(number: int) -> RuntimeError:
    """An error like that of torch.save."""
    try:
        try:
            raise OSError(number, "whatever")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904 - as torch does
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "of a library"), "no space left on device, free some space"),
        (PermissionError(errno.EACCES, "x", "a/b"), "a/b: permission denied, change its permissions"),
        (OSError(errno.EROFS, "x", "a/b"), "a/b: read-only file system, choose a place"),
        (OSError(errno.ELOOP, "x", "a/b"), "a/b: too many levels of symbolic links"),
        (OSError("of a library alone"), "of a library alone"),
        (_wrapped(errno.ENOSPC), "no space left on device, free some space"),
        (Exception("I/O error: No space left (os error 28)"), "no space left on device, free some space"),
        (MemoryError(), "there is not enough memory: "),
    ],
)
def test_what_the_system_refuses_is_a_sentence(error, told):
    message, status = described(error, [])
    assert message.startswith(told)
    assert status == 2


def test_an_error_while_another_is_handled_is_told_itself():
    assert described(_wrapped(errno.ENOENT), [])[0].startswith("unexpected RuntimeError: unexpected pos 704")


def test_an_interruption_is_one_line(shown):
    assert shown(KeyboardInterrupt()) == (130, "", "exeunt: interrupted\n")


@pytest.mark.parametrize("made_of_it", ["KeyboardInterrupt", "ImportError('half of it')"])
def test_an_interruption_while_packages_are_imported_is_one_line(run, made_of_it):
    code = f"""
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it

class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == "pyarrow":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                raise {made_of_it}

sys.meta_path.insert(0, Interrupting())
from exeunt.cli.main import main
main(["show", {str(run.path)!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "exeunt: interrupted\n")


def shown_by_a_process(run, out, **options):
    command = [sys.executable, "-m", "exeunt", "show", str(run.path)]
    environ = environment(run.path)
    return subprocess.run(command, stdout=out, stderr=subprocess.PIPE, env=environ, check=False, **options)


def test_a_reader_that_has_gone_ends_the_command_quietly(run):
    reading, writing = os.pipe()
    os.close(reading)
    done = shown_by_a_process(run, writing)
    assert (done.returncode, done.stderr) == (141, b"")
    with os.fdopen(writing, "w") as gone:
        assert called("show --json", run.path, to=gone) == (141, "", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_behind_standard_output_is_told(run):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = shown_by_a_process(run, full, text=True)
    assert (done.returncode, done.stderr[:47]) == (2, "exeunt: no space left on device, free some spac")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "option"),
    [("show ''", "show"), ("calibrate run --budget ''", "--budget"), ("bench run --executor=", "--executor")],
)
def test_an_empty_text_is_no_value(arguments, option):
    told = f"exeunt: an empty text was given for {option}: give a value, or leave it out\n"
    assert called(arguments) == (2, "", told)


def test_what_a_terminal_would_obey_is_shown_as_it_is_typed():
    assert called("show", "a\x1b[31m\nb").err.startswith("exeunt: a\\x1b[31m\\nb does not exist: ")


def test_a_name_that_is_no_utf8_is_told():
    error = UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed")
    assert described(error, [])[0].startswith("'a\\udcff' is not text in UTF-8")


def test_an_interruption_tells_what_is_kept():
    with pytest.raises(KeyboardInterrupt, match="all of it"), interruptible(lambda: "all of it"):
        raise KeyboardInterrupt


def test_a_training_that_had_not_begun_keeps_nothing(monkeypatch, tmp_path):
    pytest.importorskip("torch")
    monkeypatch.setattr("exeunt.torch.training.run.run_training", raising(KeyboardInterrupt()))
    done = called("train --model exeunt.zoo:digits --data sklearn:digits --out", tmp_path / "run")
    told = "exeunt: interrupted; the training had not begun, and nothing was written\n"
    assert done == (130, "", told)


def test_an_interrupted_comparison_names_its_cache(monkeypatch, run, tmp_path):
    monkeypatch.setattr("exeunt.cli.compare._measuring", raising(KeyboardInterrupt()))
    done = called("compare", run.path, "--cache", tmp_path / "kept")
    assert done.status == 130
    assert f"are kept in {tmp_path / 'kept'} (--cache): the same command goes on" in done.err


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("4", "4")])
def test_numpy_has_one_thread_unless_told_otherwise(monkeypatch, before, after):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", before or "0")
    if before is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    assert called("--version").status == 0
    assert os.environ["OPENBLAS_NUM_THREADS"] == after
