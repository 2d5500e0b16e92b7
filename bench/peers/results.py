"""Result files, `ringmill-bench/1`: one for each case, written after each of its runs: a stop loses one run at most."""

import json
import os
import platform
import re
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "bench" / "results"

FOLDERS = re.compile(r"(?<![\w.])/(?:[\w.+-]+/)+")
Result = dict[str, Any]


def git(*arguments: str) -> str:
    """Of this repository; empty outside of one."""
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def folder() -> Path:
    """Of today's runs at this commit, or of an unfinished earlier day's at the same."""
    commit = git("rev-parse", "--short=7", "HEAD") or "unknown"
    earlier = sorted(RESULTS.glob(f"*-{commit}/peers"))
    return earlier[-1] if earlier else RESULTS / f"{time.strftime('%Y-%m-%d', time.gmtime())}-{commit}" / "peers"


def first_line(path: str) -> str | None:
    """Of a file of /sys or /proc."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError):
        return None


def machine(cpus: list[int]) -> dict[str, Any]:
    """Where it runs."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")), "unknown")
    release = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    system = next((line.split("=", 1)[1].strip('"') for line in release if line.startswith("PRETTY_NAME=")), "Linux")
    governor = first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"Linux {platform.release()}",
        "os": system,
        "governor": governor,
        "clock_source": first_line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "hypervisor": "kvm" if any("hypervisor" in line for line in cpuinfo if line.startswith("flags")) else None,
        "python": platform.python_version(),
        "libraries": {},
        "pinning": cpus,
        "topology": [],
    }


def build() -> dict[str, Any]:
    """Of what."""
    return {
        "version": "0.1.0",
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "rust-core", "python-workers")),
    }


def new(job: dict[str, Any], method: dict[str, Any], cpus: list[int]) -> Result:
    """An empty one."""
    return {
        "schema": "ringmill-bench/1",
        "status": "valid",
        "invalid_because": [],
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "job": {"pipeline": None, "overrides": [], **job},
        "build": build(),
        "machine": machine(cpus),
        "method": {"latency_from": None, "group_rows": 1, "warmup_s": 0.0, "tolerance": 0.001, **method},
        "measurements": [],
        "sweep": None,
    }


def new_measurement(identity: str, rate: float | None = None) -> dict[str, Any]:
    """Without runs."""
    return {
        "id": identity,
        "event": None,
        "rate": rate,
        "status": "valid",
        "invalid_because": [],
        "throughput": None,
        "latency_ns": {},
        "spread_ns": {},
        "hiccup_ns": None,
        "runs": [],
    }


def summarise(measurement: dict[str, Any]) -> None:
    """Medians and spread over the runs there are."""
    rates = [run["achieved_rate"] for run in measurement["runs"] if run["achieved_rate"] is not None]
    measurement["throughput"] = spread(rates) if rates else None


def spread(figures: list[float]) -> dict[str, float]:
    """Least, median, greatest."""
    return {"median": statistics.median(figures), "min": min(figures), "max": max(figures)}


def invalidate(result: Result, because: str) -> None:
    """A result that must not be compared. Of files in the reason their names are left: the rest says nothing elsewhere."""
    result["status"] = "invalid"
    result["invalid_because"].append(FOLDERS.sub("", because))


def save(path: Path, result: Result) -> None:
    """At once whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    unfinished.rename(path)


def load(path: Path) -> Result | None:
    """What was saved."""
    if not path.exists():
        return None
    result: Result = json.loads(path.read_text(encoding="utf-8"))
    return result
