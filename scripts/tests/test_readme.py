"""What the READMEs say is so: the tutorial's files are those of the `hello` example, and commands print what is shown.

A fenced block that follows a line with a single file name in backticks is that file. In a `console` block, lines that
begin with `$ ` are typed, all in one shell; a line below them must be part of what is printed, where `…` stands for
anything.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "python-workers" / "examples"
HELLO = EXAMPLES / "hello"

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"`([\w.-]+\.\w+)`:\n+\Z")

INSTEAD = {
    # the clone is there already
    "git clone https://github.com/ringmill/ringmill && cd ringmill": f"cd '{ROOT}'",
    # the same demo, with a twentieth of the rows
    "scripts/demo": "scripts/demo --rows 5000000",
    # every test has a home of its own
    "mkdir ~/weather && cd ~/weather": "cd ~/weather",
}


@dataclass
class Typed:
    """A command of a console block and what the README shows below it."""

    command: str
    shown: list[str] = field(default_factory=list)


def files() -> dict[str, str]:
    """The files that the README tells a reader to write."""
    found = {}
    for block in FENCE.finditer(README):
        name = FILE_NAME.search(README[: block.start()])
        if name:
            found[name[1]] = block[2]
    return found


def commands(text: str) -> list[Typed]:
    """Everything that a README tells a reader to type, in order."""
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


def test_the_files_are_those_of_the_hello_example() -> None:
    shown = files()
    assert set(shown) == {"readings.ndjson", "weather.py", "pipeline.toml", "test_weather.py"}
    for name, text in shown.items():
        assert text == (HELLO / name).read_text(encoding="utf-8"), name


def check(typed: list[Typed], home: Path, instead: dict[str, str]) -> None:
    """Types everything into one shell and looks for what should be shown."""
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


def test_every_command_does_what_is_shown(tmp_path: Path) -> None:
    (tmp_path / "weather").mkdir()
    for name, text in files().items():
        (tmp_path / "weather" / name).write_text(text, encoding="utf-8")
    check(commands(README), tmp_path, INSTEAD)


@pytest.mark.parametrize("name", ["telemetry", "ticks", "flights"])
def test_every_command_of_an_example_does_what_is_shown(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(EXAMPLES / name, tmp_path / name)
    typed = commands((folder / "README.md").read_text(encoding="utf-8"))
    check(typed, tmp_path, {f"cd python-workers/examples/{name}": f"cd '{folder}'"})
