"""A PostgreSQL server with its default settings in a temporary folder, for the time of a measurement."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


def programs() -> Path | None:
    """Where the programs lie: in Debian's folder, or on the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    on_path = shutil.which("initdb")
    return found[0].parent if found else Path(on_path).parent if on_path else None


@dataclass(frozen=True)
class Server:
    """A running server."""

    programs: Path
    folder: Path
    port: int

    @property
    def url(self) -> str:
        """Where a client connects, by its Unix socket."""
        return f"postgres://bench@/postgres?host={self.folder}&port={self.port}"

    def sql(self, text: str) -> str:
        """Runs SQL with psql; what it prints."""
        psql = str(self.programs / "psql")
        arguments = [psql, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.url, "-c", text]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        return done.stdout.strip()


@contextmanager
def server(programs: Path) -> Iterator[Server]:
    """Starts one as a user that it accepts, waits until it answers, ends it."""
    owner = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="pg") as temporary:
        folder = Path(temporary)
        if owner:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        user = owner.pw_uid if owner else None
        group = owner.pw_gid if owner else None
        data = str(folder / "data")
        initdb = [str(programs / "initdb"), "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--no-locale"]
        subprocess.run(initdb, user=user, group=group, cwd=folder, check=True, capture_output=True)
        command = [str(programs / "postgres"), "-D", data, "-k", str(folder), "-p", str(port), "-h", ""]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, user=user, group=group, cwd=folder, stdout=log, stderr=log)
        try:
            started = Server(programs, folder, port)
            while True:
                try:
                    started.sql("SELECT 1")
                    break
                except subprocess.CalledProcessError:
                    if process.poll() is not None:
                        raise
                    time.sleep(0.05)
            yield started
        finally:
            process.terminate()
            process.wait()
