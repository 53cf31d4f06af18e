"""A PostgreSQL server of a temporary folder, where Debian's package `postgresql` is installed."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import pytest


def programs():
    """Return the folder of initdb and pg_ctl; skip the test where there is none."""
    if find_spec("psycopg") is None:
        pytest.skip("not installed: the extra postgres")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found and (path := shutil.which("pg_ctl")):
        found = [Path(path)]
    if not found:
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    return found[-1].parent


class Server:
    """A server that listens on a socket in its folder. It runs as `nobody` for root, as whom it refuses to run.

    `durable`: what is kept survives a power failure, too; any kill of its processes it survives either way.
    """

    def __init__(self, folder, *, durable=False):
        self.bin, self.folder, self.names = programs(), Path(folder), count()
        self.user = "nobody" if os.geteuid() == 0 else None
        if self.user:
            os.chown(folder, pwd.getpwnam(self.user).pw_uid, -1)
        self.owner = self.user or getpass.getuser()
        self._run("initdb", "-D", self.data, "-A", "trust", "-E", "UTF8", "--locale", "C", "--no-sync")
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(f"listen_addresses = ''\nunix_socket_directories = '{self.folder}'\n")
            conf.write(f"fsync = {'on' if durable else 'off'}\nshared_buffers = 16MB\nmax_connections = 60\n")

    @property
    def data(self):
        return self.folder / "data"

    def _run(self, program, *arguments):
        done = subprocess.run(
            [self.bin / program, *map(str, arguments)],
            user=self.user, cwd=self.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self):
        # With a log, or it would keep the pipe of this process open.
        self._run("pg_ctl", "-D", self.data, "-w", "-l", self.folder / "log", "start")

    def stop(self, mode="immediate"):
        """Stop it; "immediate" as if it were killed."""
        self._run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    def restart(self):
        self.stop()
        self.start()

    def address(self, database="postgres", user=None):
        return f"postgresql://{user or self.owner}@/{database}?host={self.folder}"

    def sql(self, statement, address=None):
        """Return the rows of a statement, if there are any."""
        import psycopg

        with psycopg.connect(address or self.address(), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else None

    def end_connections(self, address, most=None):
        """End connections to a database, as its operator may: `most` of them at random, by default all."""
        of = f"SELECT pid FROM pg_stat_activity WHERE datname = '{name_of(address)}' ORDER BY random()"
        limit = "" if most is None else f" LIMIT {most}"
        self.sql(f"SELECT pg_terminate_backend(pid) FROM ({of}{limit}) AS found")

    def new_database(self, options=""):
        """Make an empty database and return its address."""
        name = f"money_{next(self.names)}"
        self.sql(f"CREATE DATABASE {name} {options}")
        return self.address(name)


def name_of(address):
    """Return the name of the database in an address of this server."""
    return address.partition("@/")[2].partition("?")[0]


_started = []


def server():
    """Return the server of this process, which the first test that asks for it starts."""
    if not _started:
        programs()
        folder = tempfile.mkdtemp(prefix="pg-")
        _started.append(made := Server(folder))
        made.start()
    return _started[0]


def stop_server():
    """Stop it, if there is one."""
    while _started:
        made = _started.pop()
        made.stop()
        shutil.rmtree(made.folder, ignore_errors=True)
