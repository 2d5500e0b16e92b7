"""The configuration reference says what the command says."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from configuration_reference import ROOT, SCHEMA, reference


def test_the_committed_reference_is_fresh() -> None:
    committed = (ROOT / "rust-core" / "docs" / "configuration.md").read_text(encoding="utf-8")
    fresh = reference(json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert committed == fresh, "run: python scripts/configuration_reference.py > rust-core/docs/configuration.md"
