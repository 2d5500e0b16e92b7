"""Writes bench/README.md, its plots and the README's table from the newest results: `scripts/bench report`. A test fails when
they are stale.

What is written by hand stands in bench/method/*.md and is put where the template names it: {{method}}, {{figures}}.
"""

import argparse
import html
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parent.parent
ROOT = BENCH.parent
RESULTS = BENCH / "results"
JOBS = {
    "J1": "NumPy z-score over batches of 1,024 rows",
    "J2": "CSV file, 1 s windows in event time over 1,000 keys, NumPy score of the averages, CSV file",
    "J2-500k": "the same with 500,000 keys",
    "J3": "1 ms of processor time for every 1,024 rows",
    "J4": "JSON events of 1.2 KB, four fields, then J2",
    "kafka": "J4 from the topic of a Kafka broker",
}
TARGETS = {
    ("J2", "bytewax"): 100.0,
    ("J2", "pathway"): 50.0,
    ("J2", "pyflink"): 50.0,
    ("J2-500k", "bytewax"): 100.0,
    ("J2-500k", "pathway"): 50.0,
    ("J2-500k", "pyflink"): 50.0,
    ("J1", "zeromq"): 1.6,
    ("J1", "multiprocessing"): 6.0,
    ("J1", "bytewax"): 5.0,
    ("J1", "pathway"): 100.0,
    ("J1", "pyflink"): 100.0,
    ("kafka", "aiokafka"): 10.0,
    ("kafka", "confluent-kafka"): 5.0,
}
"""How many times as fast as a peer's best configuration we mean to be."""
RATE_TARGETS = {"J1": 60e6, "J4": 1e6}
FILE_TARGETS = {"write parquet": 1e6, "write parquet, rolled": 1e6, "write PostgreSQL": 200e3}
MEMORY_TARGET = 145e6
RING_TARGETS = {
    ("iceoryx2", "round-trip"): dict.fromkeys((64, 1024, 6144, 65536), 2.5),
    ("iceoryx2", "throughput"): {64: 30.0, 6144: 2.5, 65536: 1.8},
    ("iceoryx2-python", "round-trip"): {6144: 5.0},
    ("iceoryx2-python", "throughput"): {6144: 8.0},
}
LIVE_RATE = 10_000
"""Events a second at which the README compares latencies."""
SHORT_BEGINS, SHORT_ENDS = "<!-- peers: written by scripts/bench report -->", "<!-- /peers -->"
SIZES = {64: "64 B", 1024: "1 KiB", 6144: "6 KiB", 65536: "64 KiB"}

Result = dict[str, Any]


def newest() -> Path | None:
    """The folder of the newest results that are not small ones."""
    folders = sorted(RESULTS.glob("*/peers"), key=lambda folder: (folder.parent.name[:10], created(folder)))
    return folders[-1] if folders else None


def created(folder: Path) -> str:
    """Of its newest result."""
    return max((result["created"] for result in load(folder)), default="")


def load(folder: Path) -> list[Result]:
    """All results, by file name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def measured(results: list[Result]) -> str:
    """Where, when, and at which commit; what was measured where, if there were several machines."""
    machines: dict[str, list[Result]] = {}
    for result in results:
        machines.setdefault(machine_of(result), []).append(result)
    said = []
    for machine, there in machines.items():
        jobs = ", ".join(sorted({result["job"]["name"] for result in there}))
        day = max(result["created"] for result in there)[:10]
        said.append(f"{f'{jobs}: ' if len(machines) > 1 else ''}{machine}; {day}, {commits(there)}")
    return ". ".join(said)


def machine_of(result: Result) -> str:
    """In a line."""
    machine = result["machine"]
    virtual = f", {machine['hypervisor'].upper()}" if machine["hypervisor"] else ""
    cpus = f"{machine['cpus']} CPUs ({machine['cpu']}{virtual})"
    return f"{cpus}, {machine['os']}, {machine['kernel']}, CPython {machine['python']}"


def commits(results: list[Result]) -> str:
    """Which commit was measured; which ones, where a part was measured again later."""
    jobs: dict[str, set[str]] = {}
    for result in results:
        build = result["build"]
        commit = f"{build['commit'][:7]}{' with changes' if build['dirty'] else ''}"
        jobs.setdefault(commit, set()).add(result["job"]["name"])
    if len(jobs) == 1:
        return f"commit {next(iter(jobs))}"
    return "; ".join(f"{', '.join(sorted(names))} at commit {commit}" for commit, names in jobs.items())


def name_of(result: Result) -> str:
    """As a reader knows it."""
    job = result["job"]
    version = f" {job['engine_version']}" if job.get("engine_version") else ""
    name = {"ringmill": "**Ringmill**", "multiprocessing": "multiprocessing", "futures": "concurrent.futures"}.get(
        job["engine"], job["engine"]
    )
    variant = f", {job['variant']}" if job.get("variant") else ""
    return f"{name}{version}{variant}"


def rate(figure: float) -> str:
    """Rows or messages a second."""
    for limit, unit, digits in ((1e8, "M", 0), (1e7, "M", 1), (1e5, "M", 2), (0, "k", 1)):
        if figure >= limit:
            return f"{figure / (1e6 if unit == 'M' else 1e3):.{digits}f} {unit}"
    return f"{figure:.0f}"


def times(nanoseconds: float | None) -> str:
    """A latency."""
    if nanoseconds is None:
        return "-"
    for limit, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if nanoseconds >= limit:
            return f"{nanoseconds / limit:.3g} {unit}"
    return f"{nanoseconds:.0f} ns"


def median(figures: list[float]) -> float:
    """Of a few."""
    ordered = sorted(figures)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def of_job(results: list[Result], job: str) -> list[Result]:
    """Ours first, the others by speed, what failed last."""
    chosen = [result for result in results if result["job"]["name"] == job]
    return sorted(chosen, key=lambda result: (result["job"]["engine"] != "ringmill", -speed(result), name_of(result)))


def speed(result: Result) -> float:
    """Median rate; 0 of what failed."""
    if result["status"] != "valid" or not result["measurements"]:
        return 0.0
    throughput = result["measurements"][0]["throughput"]
    return float(throughput["median"]) if throughput else 0.0


def is_ours(result: Result) -> bool:
    """Whether others are compared with it: ours, and the configuration that most would choose."""
    return bool(result["job"]["engine"] == "ringmill" and result["job"].get("best", True))


def ratio_cell(job: str, result: Result, results: list[Result]) -> str:
    """How many times as fast we are, and what it should be; the target is for a peer's fastest configuration."""
    ours = next(
        (each for each in results if is_ours(each) and each["job"].get("workers") == result["job"].get("workers")),
        None,
    )
    if ours is None or not speed(ours) or not speed(result) or result["job"]["engine"] == "ringmill":
        return ""
    return ratio_text(job, ours, result, results)


def ratio_text(job: str, ours: Result, result: Result, results: list[Result]) -> str:
    """The same of one of our configurations."""
    ratio = speed(ours) / speed(result)
    text = f"{ratio:.3g}x" + (" **(we lose)**" if ratio < 1 else "")
    target = TARGETS.get((job, result["job"]["engine"]))
    best = max(speed(each) for each in results if each["job"]["engine"] == result["job"]["engine"])
    passes_rows = job != "J1" or result["job"]["engine"] != "bytewax" or result["job"]["variant"] != "arrays"
    if target and passes_rows and (speed(result) == best or job == "J1"):
        text += f" (target {target:g}x{'' if ratio >= target else ', missed'})"
    return text


def job_table(job: str, results: list[Result]) -> Iterator[str]:
    """Throughput, start-up, memory and processor time."""
    workers = job == "J3"
    columns = ["rows/s", "least … most", "with start-up", "start-up", "memory", "cores busy"]
    columns += ["CPU s per M rows", "of the brokers"] if job == "kafka" else []
    columns.append("Ringmill is")
    yield f"| engine |{' workers |' if workers else ''} {' | '.join(columns)} |"
    yield f"|---|{'---:|' if workers else ''}{'---:|' * len(columns)}"
    ordered = of_job(results, job)
    if workers:
        ordered.sort(key=lambda result: result["job"]["workers"])
    for result in ordered:
        count = f" {result['job']['workers']} |" if workers else ""
        if not speed(result):
            why = html.escape("; ".join(result["invalid_because"]) or "not measured")[:160].replace("|", "/")
            yield f"| {name_of(result)} |{count} failed: {why} |{' |' * (len(columns) - 1)}"
            continue
        measurement = result["measurements"][0]
        runs, throughput = measurement["runs"], measurement["throughput"]
        memory = median([run["memory_bytes"]["all"] for run in runs])
        cores = median([run["cpu_seconds"]["all"] / run["wall_s"] for run in runs])
        cells = [
            rate(throughput["median"]),
            f"{rate(throughput['min'])} … {rate(throughput['max'])}",
            rate(median([run["rate_with_startup"] for run in runs])),
            f"{median([run['startup_s'] for run in runs]):.2f} s",
            f"{memory / 1e6:.0f} MB",
            f"{cores:.1f}",
            *(cpu_cells(measurement) if job == "kafka" else ()),
            ratio_cell(job, result, ordered),
        ]
        yield f"| {name_of(result)} |{count} " + " | ".join(cells) + " |"


def cpu_cells(measurement: dict[str, Any]) -> Iterator[str]:
    """Processor time for a million rows beyond the start-up: of the client, and of the brokers that it reads from."""
    start_s = median(measurement["startups_cpu_s"])
    for who, less in (("all", start_s), ("brokers", 0.0)):
        yield f"{median([(run['cpu_seconds'][who] - less) / run['rows_in'] * 1e6 for run in measurement['runs']]):.2f}"


def notes(job: str, results: list[Result]) -> Iterator[str]:
    """What the table does not say."""
    for result in of_job(results, job):
        if result["job"].get("note"):
            yield f"{name_of(result)}: {result['job']['note']}{as_fast_as(job, result, of_job(results, job))}."
    ours = next((result for result in of_job(results, job) if is_ours(result)), None)
    if ours and speed(ours) and job in RATE_TARGETS:
        met = "met" if speed(ours) >= RATE_TARGETS[job] else "missed"
        yield f"Target for Ringmill: {rate(RATE_TARGETS[job])} rows/s, {met}."
    if ours and speed(ours) and job == "J4":
        memory = median([run["memory_bytes"]["all"] for run in ours["measurements"][0]["runs"]])
        yield f"Target for its memory: {MEMORY_TARGET / 1e6:.0f} MB, {'met' if memory <= MEMORY_TARGET else 'missed'}."


def as_fast_as(job: str, result: Result, results: list[Result]) -> str:
    """What another configuration of ours comes to beside the others."""
    if result["job"]["engine"] != "ringmill" or is_ours(result) or not speed(result):
        return ""
    others = [each for each in results if each["job"]["engine"] != "ringmill" and speed(each)]
    ratios = (f"{ratio_text(job, result, each, results)} {name_of(each)}" for each in others)
    return f"; so it is {', '.join(ratios)}"


def latency_table(results: list[Result]) -> Iterator[str]:
    """J2 live."""
    yield "| engine | events/s | p50 | p99 | p99, least … most | max | results |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    chosen = [result for result in results if result["job"]["name"] == "latency"]
    for result in sorted(
        chosen, key=lambda each: (each["measurements"][0]["rate"], each["job"]["engine"] != "ringmill", name_of(each))
    ):
        measurement = result["measurements"][0]
        events = rate(measurement["rate"])
        if result["status"] != "valid" or not measurement["latency_ns"]:
            why = html.escape("; ".join(result["invalid_because"]))[:160].replace("|", "/")
            yield f"| {name_of(result)} | {events} | not sustained: {why} | | | | |"
            continue
        whole = measurement["latency_ns"]["end_to_end"]
        between = measurement["spread_ns"].get("end_to_end", {}).get("p99")
        least_most = f"{times(between['min'])} … {times(between['max'])}" if between else "-"
        cells = [events, times(whole["p50"]), times(whole["p99"]), least_most, times(whole["max"]), f"{whole['count']:,}"]
        yield f"| {name_of(result)} | " + " | ".join(cells) + " |"


def ring_measurement(result: Result, kind: str, size: int) -> dict[str, Any] | None:
    """With its runs, if there are any that count."""
    for measurement in result["measurements"]:
        if measurement["id"] == f"{kind}-{size}" and measurement["runs"] and measurement["status"] == "valid":
            return dict(measurement)
    return None


def ring_ratio(kind: str, ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """How many times better ours is: the median over the runs, each compared with the one that was made beside it."""
    pairs = list(zip(ours["runs"], theirs["runs"], strict=False))
    if kind == "round-trip":
        figures = [[run["latency_ns"]["end_to_end"]["p50"] for run in pair] for pair in pairs]
        return float(statistics.median(theirs_p50 / ours_p50 for ours_p50, theirs_p50 in figures))
    return float(statistics.median(mine["achieved_rate"] / other["achieved_rate"] for mine, other in pairs))


def ring_table(results: list[Result], kind: str) -> Iterator[str]:
    """Round trips or throughput, by size."""
    chosen = [result for result in results if result["job"]["name"] == "ring"]
    chosen.sort(
        key=lambda each: (
            each["job"]["language"] != "rust",
            each["job"]["variant"] != "spin",
            each["job"]["engine"] != "ringmill",
        )
    )
    yield "| ends written in, wait | " + " | ".join(SIZES.values()) + " |"
    yield "|---|" + "---:|" * len(SIZES)
    for result in chosen:
        cells = [ring_cell(result, chosen, kind, size) for size in SIZES]
        language = {"rust": "Rust", "python": "Python"}[result["job"]["language"]]
        yield f"| {name_of(result)} ({language}) | " + " | ".join(cells) + " |"


def ring_cell(result: Result, everything: list[Result], kind: str, size: int) -> str:
    """One figure, and how it compares with ours that waits alike."""
    measurement = ring_measurement(result, kind, size)
    if measurement is None:
        return "failed"
    whole = measurement["latency_ns"].get("end_to_end", {})
    text = f"{times(whole['p50'])} / {times(whole['p99'])}" if kind == "round-trip" else rate(measurement["throughput"]["median"])
    job = result["job"]
    if job["engine"] == "ringmill":
        return text
    like_it = [each for each in everything if each["job"]["engine"] == "ringmill" and each["job"]["variant"] == job["variant"]]
    ours = ring_measurement(like_it[0], kind, size) if like_it else None
    if ours is None:
        return text
    ratio = ring_ratio(kind, ours, measurement)
    target = RING_TARGETS.get((job["engine"], kind), {}).get(size) if job["variant"] == "spin" else None
    missed = f", target {target:g}x{'' if ratio >= target else ' missed'}" if target else ""
    return f"{text} ({ratio:.3g}x{missed}{', **we lose**' if ratio < 1 else ''})"


def bars(title: str, rows: list[tuple[str, float]]) -> str:
    """A plot of rates with a logarithmic axis, as SVG without any library, so that it is the same everywhere."""
    least = 10 ** (len(str(int(min(figure for _, figure in rows)))) - 1)
    most = max(figure for _, figure in rows)
    decades = max(1.0, len(str(int(most))) - len(str(int(least))) + 1.0)
    left, width, line = 230, 520, 22
    height = 44 + line * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="18" font-size="13" font-weight="bold">{html.escape(title)}</text>',
    ]
    for decade in range(int(decades) + 1):
        x = left + width * decade / decades
        parts.append(f'<line x1="{x:.0f}" y1="28" x2="{x:.0f}" y2="{height - 14}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.0f}" y="{height - 3}" text-anchor="middle" fill="#666">{rate(least * 10.0**decade)}</text>')
    for number, (label, figure) in enumerate(rows):
        y = 30 + line * number
        length = width * log10(figure / least) / decades
        colour = "#c8501e" if label.startswith("Ringmill") else "#7a8ca5"
        parts.append(f'<text x="{left - 6}" y="{y + 14}" text-anchor="end">{html.escape(label)}</text>')
        parts.append(f'<rect x="{left}" y="{y + 3}" width="{length:.0f}" height="{line - 7}" fill="{colour}"/>')
        parts.append(f'<text x="{left + length + 4:.0f}" y="{y + 14}">{rate(figure)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def log10(figure: float) -> float:
    """Decades."""
    import math

    return math.log10(max(figure, 1e-9))


def plots(results: list[Result]) -> dict[str, str]:
    """By file name: the jobs' rates, without configurations that nobody would choose."""
    files = {}
    for job, title in JOBS.items():
        rows = [
            (name_of(result).replace("**", "") + (f" x {result['job']['workers']}" if job == "J3" else ""), speed(result))
            for result in of_job(results, job)
            if speed(result) and result["job"].get("best", True)
        ]
        if rows:
            files[f"{job.lower()}.svg"] = bars(f"{job}: {title}, rows/s", rows)
    return files


def peers_section(folder: Path | None) -> str:
    """The generated part."""
    if folder is None:
        return "No results are there yet: `scripts/bench peers`, then `scripts/bench report`."
    results = load(folder)
    where = folder.relative_to(BENCH)
    parts = [f"{measured(results)}. Every run and every histogram: [{where}]({where})."]
    if any(result["method"]["quick"] for result in results):
        parts.append("**Small runs (`--quick`): these figures are there to show the form.**")
    for job, title in JOBS.items():
        if not of_job(results, job):
            continue
        parts += [f"### {job}: {title}", "\n".join(job_table(job, results)), *notes(job, results)]
        if f"{job.lower()}.svg" in plots(results):
            parts.append(f"![{job}](plots/{job.lower()}.svg)")
    if any(result["job"]["name"] == "latency" for result in results):
        title = "### J2 live: from the event that closes a window to its results"
        parts += [title, "\n".join(latency_table(results)), *notes("latency", results)]
    if any(result["job"]["name"] == "ring" for result in results):
        parts += [
            "### Between two processes: round trip, p50 / p99 (how many times ours)",
            "\n".join(ring_table(results, "round-trip")),
        ]
        parts += [
            "### Between two processes: messages a second (how many times theirs ours are)",
            "\n".join(ring_table(results, "throughput")),
        ]
    return "\n\n".join(parts)


def newest_files() -> Path | None:
    """The newest result of `scripts/bench files` that is not a small one."""
    found = [(json.loads(path.read_text(encoding="utf-8")), path) for path in RESULTS.glob("*/files.json")]
    return max(((result["created"], path) for result, path in found if not result["method"]["quick"]), default=(None, None))[1]


def files_section(path: Path | None) -> str:
    """Rows a second of each case."""
    if path is None:
        return "No results are there yet: `scripts/bench files`, then `scripts/bench report`."
    result: Result = json.loads(path.read_text(encoding="utf-8"))
    where = path.relative_to(BENCH)
    lines = [
        f"{measured([result])}. Every run: [{where}]({where}).",
        "",
        "| | rows/s | least … most | target |",
        "|---|---:|---:|---:|",
    ]
    for measurement in result["measurements"]:
        spread = measurement["throughput"]
        target = FILE_TARGETS.get(measurement["id"])
        aim = "" if target is None else f"{rate(target)}{'' if spread['median'] >= target else ', missed'}"
        lines.append(
            f"| {measurement['id']} | {rate(spread['median'])} | {rate(spread['min'])} … {rate(spread['max'])} | {aim} |"
        )
    return "\n".join(lines)


def short_form(results: list[Result]) -> str:
    """The fastest configuration of each engine, for the README."""
    jobs = [job for job in JOBS if job not in ("J3", "kafka") and of_job(results, job)]
    fastest = {
        (job, each["job"]["engine"]): speed(each)
        for job in jobs
        for each in reversed(of_job(results, job))
        if speed(each) and (is_ours(each) or each["job"]["engine"] != "ringmill")
    }
    live = {
        each["job"]["engine"]: each["measurements"][0]["latency_ns"]["end_to_end"]
        for each in results
        if each["job"]["name"] == "latency" and each["status"] == "valid" and each["measurements"][0]["rate"] == LIVE_RATE
    }
    lines = [
        f"| | {' | '.join(f'{job}, rows/s' for job in jobs)} | J2 live, p50 / p99 |",
        f"|---|{'---:|' * (len(jobs) + 1)}",
    ]
    for engine in sorted({engine for _, engine in fastest}, key=lambda engine: (engine != "ringmill", engine)):
        cells = [rate(fastest[job, engine]) if (job, engine) in fastest else "" for job in jobs]
        cells.append(f"{times(live[engine]['p50'])} / {times(live[engine]['p99'])}" if engine in live else "")
        lines.append(f"| {'**Ringmill**' if engine == 'ringmill' else engine} | {' | '.join(cells)} |")
    return "\n".join(lines)


def in_readme(short: str) -> str:
    """The README with the short form in its place."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(SHORT_BEGINS)
    return before + SHORT_BEGINS + "\n\n" + short + "\n\n" + SHORT_ENDS + rest.split(SHORT_ENDS)[1]


def files() -> dict[Path, str]:
    """Everything that is generated, by path."""
    folder = newest()
    method = BENCH / "method"
    text = (method / "README.template.md").read_text(encoding="utf-8")
    for part in sorted(method.glob("*.md")):
        text = text.replace(f"{{{{{part.stem}}}}}", part.read_text(encoding="utf-8").strip())
    text = text.replace("{{peers}}", peers_section(folder)).replace("{{files}}", files_section(newest_files()))
    written = {BENCH / "README.md": text}
    if folder:
        written |= {BENCH / "plots" / name: plot for name, plot in plots(load(folder)).items()}
        written[ROOT / "README.md"] = in_readme(short_form(load(folder)))
    return written


def main() -> None:
    """Writes, or only looks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether what is there is fresh")
    options = parser.parse_args()
    stale = [path for path, text in files().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if options.check:
        sys.exit(f"stale: {', '.join(map(str, stale))}" if stale else 0)
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print("written: " + (", ".join(str(path.relative_to(ROOT)) for path in stale) or "nothing new"))


if __name__ == "__main__":
    main()
