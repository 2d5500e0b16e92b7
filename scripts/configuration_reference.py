"""Writes rust-core/docs/configuration.md from the JSON Schema of pipeline files, which comes from the command itself.

python scripts/configuration_reference.py > rust-core/docs/configuration.md
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SCHEMA = ROOT / "rust-core" / "cli" / "pipeline.schema.json"

Schema = dict[str, Any]

HEAD = """\
<!-- Written by scripts/configuration_reference.py from rust-core/cli/pipeline.schema.json; a test fails when it is stale. -->

# Pipeline files

A pipeline file is TOML. It names sources, steps and sinks; every step and sink says in `inputs` what it reads, so the
order in the file does not matter. Names are shared: a source, a step and a sink may not have the same one. `ringmill
check FILE` reports every mistake at once; unknown keys are mistakes. A *duration* is text such as `"100ms"`, `"10s"` or
`"1h30m"` (ns, us, ms, s, m, h, d), a *size* is text such as `"64KiB"` or `"1MB"`. `--set steps.scores.workers=2` on the
command line replaces one value. The file's [JSON Schema](../cli/pipeline.schema.json) (`ringmill schema`) gives editors
completion. How time, windows and errors behave is told in [semantics](semantics.md).
"""


def reference(schema: Schema) -> str:
    """The whole document."""
    properties = schema["properties"]
    parts = [HEAD]
    for section in ("pipeline", "checkpoint", "serve"):
        parts.append(f"## `[{section}]`\n")
        parts.append(properties[section]["description"] + "\n")
        parts.extend(tables(properties[section]))
    for section, title in (("sources", "Sources"), ("steps", "Steps"), ("sinks", "Sinks")):
        parts.append(f"## {title}: `[{section}.NAME]`\n")
        parts.append(properties[section]["description"] + "\n")
        parts.extend(guarantees(properties[section]["additionalProperties"]["oneOf"]))
        for kind in properties[section]["additionalProperties"]["oneOf"]:
            parts.append(f'### `kind = "{kind["properties"]["kind"]["const"]}"`\n')
            parts.append(kind["description"] + "\n")
            parts.extend(tables(kind))
    return "\n".join(parts)


def guarantees(kinds: list[Schema]) -> Iterator[str]:
    """A table of what the kinds promise, if they do."""
    promising = [kind for kind in kinds if "x-guarantee" in kind]
    if not promising:
        return
    yield "With `[checkpoint]`, whatever dies and whenever, a record counts ([more](semantics.md#checkpoints)):\n"
    lines = ["| kind | |", "|---|---|"]
    lines += [f"| `{kind['properties']['kind']['const']}` | {kind['x-guarantee']} |" for kind in promising]
    yield "\n".join(lines) + "\n"


def tables(schema: Schema) -> Iterator[str]:
    """A table of the keys, and one for each key that is a table itself."""
    required = set(schema["required"])
    keys = [key for key in schema["properties"] if key != "kind"]
    keys.sort(key=lambda key: (key not in required, key))
    lines = ["| key | value | |", "|---|---|---|"]
    inner = []
    for key in keys:
        of_key = schema["properties"][key]
        name = f"**`{key}`**" if key in required else f"`{key}`"
        lines.append(f"| {name} | {value(of_key)} | {cell(of_key['description'])} |")
        for table in nested(of_key):
            inner.append(f"Each table of `{key}`:\n" if of_key.get("type") == "array" else f"`{key}` as a table:\n")
            inner.extend(tables(table))
    yield "\n".join(lines) + "\n"
    yield from inner


def nested(schema: Schema) -> Iterator[Schema]:
    """The tables with fixed keys that a value may be or hold."""
    if "properties" in schema:
        yield schema
    for choice in schema.get("anyOf", []):
        yield from nested(choice)
    if isinstance(schema.get("items"), dict):
        yield from nested(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nested(schema["additionalProperties"])


def value(schema: Schema) -> str:
    """What may stand behind the equals sign, in few words."""
    if "anyOf" in schema:
        return " or ".join(value(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        words = schema["enum"]
        if "float64" in words:
            return "column type"
        if isinstance(words[0], int):
            return f"power of two, {words[0]} to {words[-1]}"
        return ", ".join(f"`{word}`" for word in words)
    match schema["type"]:
        case "object" if isinstance(schema["additionalProperties"], dict):
            return f"table of names, each {value(schema['additionalProperties'])}"
        case "object":
            return "table"
        case "array" if "properties" in schema["items"]:
            return "list of tables"
        case "array":
            return f"list of {value(schema['items'])}"
        case "string" if "pattern" in schema:
            return "duration" if "ms" in schema["pattern"] else "size"
        case "string" if schema.get("format") == "date-time":
            return "RFC 3339 time"
        case kind:
            return {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}[kind]


def cell(text: str) -> str:
    """Text that stays in its cell."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference(json.loads(SCHEMA.read_text(encoding="utf-8"))))
