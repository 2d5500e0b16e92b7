"""The tables of keys say what the command says."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from configuration_reference import ROOT, SCHEMA, Reference


def test_the_committed_tables_are_fresh() -> None:
    for path, fresh in Reference(json.loads(SCHEMA.read_text(encoding="utf-8"))).documents():
        stale = f"{path.relative_to(ROOT)} is stale; run: python scripts/configuration_reference.py"
        assert path.read_text(encoding="utf-8") == fresh, stale
