"""A page of the documentation: the files that it tells a reader to write, and the commands to type.

A fenced block that follows a line with a single file name in backticks is that file. In a `console` block, lines that
begin with `$ ` are typed, all in one shell; a line below them must be part of what is printed, where `…` stands for
anything.
"""

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"`([\w.-]+\.\w+)`:\n+\Z")


@dataclass
class Typed:
    """A command of a console block and what the page shows below it."""

    command: str
    shown: list[str] = field(default_factory=list)


def files(text: str) -> dict[str, str]:
    """The files that a page tells a reader to write."""
    found = {}
    for block in FENCE.finditer(text):
        name = FILE_NAME.search(text[: block.start()])
        if name:
            found[name[1]] = block[2]
    return found


def commands(text: str) -> list[Typed]:
    """Everything that a page tells a reader to type, in order."""
    typed: list[Typed] = []
    for language, block in FENCE.findall(text):
        if language != "console":
            continue
        for line in block.splitlines():
            if line.startswith("$ "):
                typed.append(Typed(line.removeprefix("$ ")))
            elif line.strip():
                typed[-1].shown.append(line)
    return typed


def is_shown(line: str, output: str) -> bool:
    """Whether some line of the output is this one, with anything in place of each `…` and any spacing."""
    words = (re.escape(word).replace("…", ".*") for word in line.split())
    pattern = re.compile(r"\s+".join(words).replace(r".*\s+", ".*").replace(r"\s+.*", ".*"))
    return any(pattern.fullmatch(printed.strip()) for printed in output.splitlines())


def check(typed: list[Typed], home: Path, instead: dict[str, str]) -> None:
    """Types everything into one shell, which begins at home, and looks for what should be shown."""
    script = ["set -e"]
    for number, each in enumerate(typed):
        script += [f"echo '#### {number}'", instead.get(each.command, each.command)]
    environment = os.environ | {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.setdefault("CARGO_HOME", str(Path.home() / ".cargo"))
    environment.setdefault("RUSTUP_HOME", str(Path.home() / ".rustup"))
    environment.setdefault("RINGMILL_CACHE", str(Path.home() / ".cache" / "ringmill"))
    # Where libclang is: elsewhere it would be installed again, and RocksDB compiled anew with it.
    environment.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    done = subprocess.run(
        ["bash"],
        input="\n".join(script),
        env=environment,
        cwd=home,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    outputs = re.split(r"^#### \d+\n", done.stdout, flags=re.MULTILINE)[1:]
    for each, output in zip(typed, outputs, strict=True):
        for line in each.shown:
            assert is_shown(line, output), f"$ {each.command}\nshould print\n{line}\nbut printed\n{output}"
