"""A Python environment for each peer, with nothing of ours and nothing of the others in it.

They lie in $RINGMILL_CACHE/peers and are named by what is in them; requirements/NAME.txt is complete, so that every machine gets
exactly these versions.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"


def cache() -> Path:
    """Everything of the peers that is installed, built or generated."""
    return Path(os.environ["RINGMILL_CACHE"]) / "peers"


def python(name: str) -> Path:
    """The interpreter of an environment, made if need be.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    requirements = REQUIREMENTS / f"{name}.txt"
    contents = sys.version.encode() + requirements.read_bytes()
    folder = cache() / f"{name}-{hashlib.sha256(contents).hexdigest()[:12]}"
    interpreter = folder / "bin/python"
    if (folder / "complete").exists():
        return interpreter
    print(f"  installing {name} …", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--requirement", str(requirements)], check=True)
    (folder / "complete").touch()
    return interpreter


def version(requirements: str, package: str) -> str:
    """The pinned one."""
    text = (REQUIREMENTS / f"{requirements}.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(package)}==(\S+)$", text, re.MULTILINE)
    return found[1] if found else "unknown"
