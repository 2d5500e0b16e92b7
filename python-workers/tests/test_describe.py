"""``python -m ringmill.describe``: what the core learns of UDFs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCE = """
import ctypes, os
import numpy as np, numpy.typing as npt
import ringmill as rm

print("imported")
os.write(1, b"from C\\n")

@rm.udf(outputs={"score": rm.float64, "label": rm.nullable(rm.utf8)}, version=2)
def score(temperature: npt.NDArray[np.float64], mean): ...

@rm.udf(outputs={"y": rm.float64})
class Model:
    def setup(self): raise AssertionError("no setup here")
    def __call__(self, batch: rm.Batch, *, out): ...
    def snapshot(self): raise AssertionError("nor this")
    def restore(self, state): raise AssertionError("nor this")

@rm.udf(outputs={"y": rm.float64}, state={"level": rm.State(rm.float32, initial=1), "n": rm.int16})
def keeps(x, n, level): ...

class names:
    scorer = score

def plain(x): ...
"""


def describe(*functions: tuple[str, Path]) -> tuple[list[dict[str, Any]], str]:
    request = {"functions": [{"step": f"step{n}", "function": f, "directory": str(d)} for n, (f, d) in enumerate(functions)]}
    done = subprocess.run(
        [sys.executable, "-m", "ringmill.describe"], input=json.dumps(request), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)["functions"], done.stderr


def test_functions_and_classes_are_described(tmp_path: Path) -> None:
    (tmp_path / "anomaly.py").write_text(SOURCE)
    (score, model, dotted, keeps), stderr = describe(
        ("anomaly:score", tmp_path), ("anomaly:Model", tmp_path), ("anomaly:names.scorer", tmp_path), ("anomaly:keeps", tmp_path)
    )
    assert score == {
        "step": "step0",
        "ok": True,
        "name": "score",
        "module": "anomaly",
        "version": 2,
        "kind": "function",
        "mode": "columns",
        "arguments": ["temperature", "mean"],
        "out": False,
        "outputs": [
            {"name": "score", "data_type": "float64", "nullable": False},
            {"name": "label", "data_type": "utf8", "nullable": True},
        ],
        "accepts": {"temperature": ["float64"]},
        "state": [],
        "snapshot": False,
    }
    assert (model["kind"], model["mode"], model["arguments"], model["out"]) == ("class", "batch", [], True)
    assert model["snapshot"] is True
    assert dotted["name"] == "score"
    assert keeps["arguments"] == ["x", "n", "level"]
    assert keeps["state"] == [
        {"name": "level", "data_type": "float32", "initial": "0000803f"},
        {"name": "n", "data_type": "int16", "initial": "0000"},
    ]
    # What modules print does not spoil the answer.
    assert stderr.splitlines().count("imported") == 1
    assert "from C" in stderr


def test_what_cannot_be_imported_is_told_and_the_others_are_described(tmp_path: Path) -> None:
    (tmp_path / "anomaly.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("def f(:\n")
    answers, _ = describe(
        ("anomaly:scores", tmp_path),
        ("anomaly:plain", tmp_path),
        ("broken:f", tmp_path),
        ("missing:f", tmp_path),
        ("anomaly:score", tmp_path),
    )
    assert [answer["ok"] for answer in answers] == [False, False, False, False, True]
    errors = [answer.get("error") for answer in answers]
    assert "has no 'scores'; did you mean 'score'?" in errors[0]
    assert "anomaly:plain is not a UDF" in errors[1]
    assert "SyntaxError" in errors[2]
    assert "no module 'missing'" in errors[3]
    assert all("Traceback" in answer["traceback"] for answer in answers[:4])


def test_modules_of_the_same_name_in_two_directories_are_told_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helper.py").write_text(f"NAME = {name!r}\n")
        (tmp_path / name / "job.py").write_text(
            "import ringmill as rm\nfrom helper import NAME\n@rm.udf(outputs={NAME: rm.int8})\ndef f(x): ...\n"
        )
    answers, _ = describe(("job:f", tmp_path / "one"), ("job:f", tmp_path / "two"), ("job:f", tmp_path / "one"))
    assert [answer["outputs"][0]["name"] for answer in answers] == ["one", "two", "one"]
