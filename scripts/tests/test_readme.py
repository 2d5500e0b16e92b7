"""What the READMEs say is so: the tutorial's files are those of the `hello` example, and commands print what is shown."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from page import check, commands, files

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "python-workers" / "examples"
HELLO = EXAMPLES / "hello"

INSTEAD = {
    # the clone is there already
    "git clone https://github.com/ringmill/ringmill && cd ringmill": f"cd '{ROOT}'",
    # the same demo, with a twentieth of the rows
    "scripts/demo": "scripts/demo --rows 5000000",
    # every test has a home of its own
    "mkdir ~/weather && cd ~/weather": "cd ~/weather",
}


def test_the_files_are_those_of_the_hello_example() -> None:
    shown = files(README)
    assert set(shown) == {"readings.ndjson", "weather.py", "pipeline.toml", "test_weather.py"}
    for name, text in shown.items():
        assert text == (HELLO / name).read_text(encoding="utf-8"), name


def test_every_command_does_what_is_shown(tmp_path: Path) -> None:
    (tmp_path / "weather").mkdir()
    for name, text in files(README).items():
        (tmp_path / "weather" / name).write_text(text, encoding="utf-8")
    check(commands(README), tmp_path, INSTEAD)


@pytest.mark.parametrize("name", ["telemetry", "ticks", "flights"])
def test_every_command_of_an_example_does_what_is_shown(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(EXAMPLES / name, tmp_path / name)
    typed = commands((folder / "README.md").read_text(encoding="utf-8"))
    check(typed, tmp_path, {f"cd python-workers/examples/{name}": f"cd '{folder}'"})
