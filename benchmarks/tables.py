"""The tables of README, model card and docs, written from the files in docs/measured/.

    python benchmarks/native.py default --float default-float --json docs/measured/native-300.json
    python benchmarks/tables.py

A measured file holds what `keep` writes: rows, and when, where and by which command they were
measured. A page shows them between two lines:

    <!-- native-300: rows -->
    <!-- end -->

Where a script `benchmarks/NAME.py` has a function `tables`, it makes the tables of the file
NAME.json: their text by their names. A test compares pages with files.
"""

from __future__ import annotations

import argparse
import json
import re
import runpy
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ssd34 import __version__
from ssd34.files.atomic import write_json, write_text
from ssd34.machine import describe_cpu

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "docs" / "measured"
PAGES = (
    ROOT / "README.md",
    ROOT / "src" / "ssd34" / "weights" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)
MARKED = re.compile(r"(<!-- ([\w-]+: [\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Write every table anew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, default=MEASURED, help="the folder of the files")
    made = make_tables(parser.parse_args().json)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (filled := fill(text, made)) != text:
            write_text(page, filled)
            print(page.relative_to(ROOT))


def keep(file: Path, rows: Sequence[dict[str, Any]], **more: Any) -> None:
    """Write rows of values, each a table's row, with what a reader needs to judge them."""
    words = [Path(sys.argv[0]).resolve(), *map(Path, sys.argv[1:])]
    inside = [w.relative_to(ROOT) if w.is_relative_to(ROOT) else w for w in words]
    values = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["python", *map(str, inside)]),
        "ssd34": __version__,
        "onnxruntime": version("onnxruntime"),
        "cpu": describe_cpu().to_dict(),
        **more,
        "rows": list(rows),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, values)


def make_tables(folder: Path = MEASURED) -> dict[str, str]:
    """The text of every table, by what stands in its first line: file and table."""
    made = {}
    for file in sorted(folder.glob("*.json")):
        values = json.loads(file.read_text(encoding="utf-8"))
        script = Path(__file__).with_name(f"{file.stem.replace('-', '_')}.py")
        own = runpy.run_path(str(script)).get("tables") if script.is_file() else None
        for name, text in (own or draw_rows)(values).items():
            made[f"{file.stem}: {name}"] = text
    return made


def draw_rows(values: dict[str, Any]) -> dict[str, str]:
    """The rows of a measured file as they are, and below them how they came to be."""
    columns = list(values["rows"][0])
    lines = [row(*columns), row(*["---"] * len(columns))]
    lines += [row(*(one.get(column, "") for column in columns)) for one in values["rows"]]
    return {"rows": "\n".join([*lines, "", say_how(values)]) + "\n"}


def say_how(values: dict[str, Any]) -> str:
    """A sentence: processor, date, versions, command."""
    return (
        f"{describe_machine(values['cpu'])}, {values['date']}, ONNX Runtime "
        f"{values['onnxruntime']}: `{values['command']}`"
    )


def describe_machine(cpu: dict[str, Any]) -> str:
    """Cores, processor and the instructions that matter."""
    has = [name.upper() for name in ("avx2", "vnni", "amx") if (cpu["features"] or {}).get(name)]
    return f"{cpu['thread_budget']} cores of an {cpu['model']} ({', '.join(has)})"


def row(*cells: object) -> str:
    """A row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def fill(text: str, made: dict[str, str]) -> str:
    """A page with the tables that were made in their places; others stay."""
    return MARKED.sub(
        lambda match: f"{match[1]}{made[match[2]]}{match[3]}" if match[2] in made else match[0],
        text,
    )


if __name__ == "__main__":
    main()
