"""Writes the tables of keys in rust-core/docs from the JSON Schema of pipeline files, which comes from the command itself.

`configuration.md` is written whole. On the pages of sources, sinks and formats, the lines between `<!-- keys: WHAT -->` and
`<!-- /keys -->` are, where WHAT is a kind (`sources.kafka`) or a table that kinds share (`avro`).
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SCHEMA = ROOT / "rust-core" / "cli" / "pipeline.schema.json"
DOCS = ROOT / "rust-core" / "docs"
CONFIGURATION = DOCS / "configuration.md"

Schema = dict[str, Any]

KEYS = re.compile(r"(<!-- keys: ([\w.]+) -->\n).*?(<!-- /keys -->)", re.DOTALL)

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


class Reference:
    """What the schema says, as tables, and on which page each of them stands."""

    def __init__(self, schema: Schema) -> None:
        self.sections: dict[str, Schema] = schema["properties"]
        self.pages = sorted([*DOCS.glob("connect/*.md"), *DOCS.glob("formats/*.md")])
        self.homes = {"fields": CONFIGURATION}
        for page in self.pages:
            for _, what, _ in KEYS.findall(page.read_text(encoding="utf-8")):
                assert what not in self.homes, f"{what} has two pages"
                self.homes[what] = page

    def documents(self) -> Iterator[tuple[Path, str]]:
        """Each file and what it should be."""
        yield CONFIGURATION, self.configuration()
        for page in self.pages:
            text = page.read_text(encoding="utf-8")
            for match in reversed(list(KEYS.finditer(text))):
                text = f"{text[: match.end(1)]}\n{self.keys(match[2], page)}\n{text[match.start(3) :]}"
            yield page, text

    def configuration(self) -> str:
        """The whole of configuration.md."""
        parts = [HEAD]
        for section in ("pipeline", "checkpoint", "serve"):
            parts += [f"## `[{section}]`\n", self.sections[section]["description"] + "\n"]
            parts += self.tables(self.sections[section], CONFIGURATION)
        parts += [
            "## Sources: `[sources.NAME]`\n",
            *self.matrix("sources"),
            "## Fields\n",
            "The columns of a source, each with its type or with a table of these keys:\n",
            self.keys("fields", CONFIGURATION),
            "## Steps: `[steps.NAME]`\n",
            self.sections["steps"]["description"] + "\n",
        ]
        for kind in self.kinds("steps"):
            parts += [f'### `kind = "{name(kind)}"`\n', kind["description"] + "\n", *self.tables(kind, CONFIGURATION)]
        parts += ["## Sinks: `[sinks.NAME]`\n", *self.matrix("sinks")]
        return "\n".join(parts)

    def kinds(self, section: str) -> list[Schema]:
        """The schemas of `sources`, `steps` or `sinks`, each of a kind."""
        kinds: list[Schema] = self.sections[section]["additionalProperties"]["oneOf"]
        return kinds

    def matrix(self, section: str) -> Iterator[str]:
        """The kinds, what they promise, and where their keys are."""
        yield self.sections[section]["description"] + "\n"
        yield "The last column says how often a record counts, with `[checkpoint]`, whatever dies and whenever"
        yield "([more](semantics.md#checkpoints)).\n"
        lines = ["| kind | | |", "|---|---|---|"]
        for kind in self.kinds(section):
            page = self.homes[f"{section}.{name(kind)}"]
            where = f"{page.relative_to(DOCS)}#keys-of-the-{section.removesuffix('s')}"
            lines.append(f"| [`{name(kind)}`]({where}) | {cell(kind['description'])} | {kind['x-guarantee']} |")
        yield "\n".join(lines) + "\n"

    def keys(self, what: str, page: Path) -> str:
        """The tables of a kind, or of a table that kinds share."""
        section, _, of = what.partition(".")
        if of:
            kind = next(kind for kind in self.kinds(section) if name(kind) == of)
            more = f"[more]({link(DOCS / 'semantics.md', page)}#checkpoints)"
            promise = f"With `[checkpoint]` a record counts **{kind['x-guarantee']}**, whatever dies and whenever ({more}).\n"
            return "\n".join([promise, *self.tables(kind, page)])
        return "\n".join(self.tables(self.shared(what), page))

    def shared(self, what: str) -> Schema:
        """The table that most sources have under this key."""
        tables = [table for kind in self.kinds("sources") for table in nested(kind["properties"].get(what, {}))]
        assert tables, f"no source has a table {what}"
        return max(tables, key=tables.count)

    def tables(self, schema: Schema, page: Path) -> Iterator[str]:
        """A table of the keys, and one for each key that is a table itself and has no other page."""
        required = set(schema["required"])
        keys = [key for key in schema["properties"] if key != "kind"]
        keys.sort(key=lambda key: (key not in required, key))
        lines = ["| key | value | |", "|---|---|---|"]
        inner = []
        for key in keys:
            of_key = schema["properties"][key]
            shown = f"**`{key}`**" if key in required else f"`{key}`"
            description = cell(of_key["description"])
            # A table that a kind has for itself stands on the kind's page.
            if key in self.homes and all(table == self.shared(key) for table in nested(of_key)):
                description += f" [Its keys]({link(self.homes[key], page)}#{key if key == 'fields' else 'keys'})."
            else:
                for table in nested(of_key):
                    inner.append(f"Each table of `{key}`:\n" if of_key.get("type") == "array" else f"`{key}` as a table:\n")
                    inner.extend(self.tables(table, page))
            lines.append(f"| {shown} | {value(of_key)} | {description} |")
        yield "\n".join(lines) + "\n"
        yield from inner


def name(kind: Schema) -> str:
    """The word for a kind of source, step or sink."""
    word: str = kind["properties"]["kind"]["const"]
    return word


def link(target: Path, page: Path) -> str:
    """A file as a page links to it."""
    return os.path.relpath(target, page.parent)


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
    for path, text in Reference(json.loads(SCHEMA.read_text(encoding="utf-8"))).documents():
        path.write_text(text, encoding="utf-8")
