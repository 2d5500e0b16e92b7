"""Each source, sink and format has a page, and what it shows is so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

from configuration_reference import DOCS
from page import check, commands, files

PAGES = {page.stem: page for folder in ("connect", "formats") for page in sorted((DOCS / folder).glob("*.md"))}
# These need a broker, a server or a compiler, and are followed in rust-core/system-tests.
FOLLOWED_THERE = {"socket", "http", "kafka", "mqtt", "nats", "nats-core", "postgres", "avro", "protobuf", "micro-batch"}
TYPED = sorted(set(PAGES) - FOLLOWED_THERE - {"journal"})

SET = {"ALERTS_URL": "http://127.0.0.1:1", "DATABASE_URL": "postgres://user@127.0.0.1:1/database"}


def write(name: str, folder: Path) -> None:
    """Writes the files of a page."""
    for file, text in files(PAGES[name].read_text(encoding="utf-8")).items():
        (folder / file).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", sorted(set(PAGES) - {"journal", "protobuf"}))
def test_the_pipeline_of_a_page_is_one(name: str, tmp_path: Path) -> None:
    write(name, tmp_path)
    command = ["ringmill", "check", str(tmp_path / "pipeline.toml")]
    done = subprocess.run(command, env=os.environ | SET, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", TYPED)
def test_every_command_of_a_page_does_what_is_shown(name: str, tmp_path: Path) -> None:
    write(name, tmp_path)
    typed = commands(PAGES[name].read_text(encoding="utf-8"))
    assert typed, "the page shows no run"
    check(typed, tmp_path, {})
