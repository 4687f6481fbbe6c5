"""The tables of README, model card and docs, written from the files in docs/measured/.

    python benchmarks/native.py default --float default-float --json docs/measured/native-300.json
    python benchmarks/tables.py

A measured file holds what `keep` writes: rows, and when, where and by which command they were
measured. One with `typed` was written by hand from a report, of a machine that is not at hand any
more. A page shows the rows between two lines:

    <!-- native-300: rows -->
    <!-- end -->

Where a script `benchmarks/NAME.py` has a function `tables`, it makes the tables of the file
NAME.json: their text by their names. A test compares pages with files.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from ssd34 import __version__
from ssd34.datasets.dataset import fingerprint
from ssd34.datasets.open import open_dataset
from ssd34.files.atomic import compute_sha256, write_json, write_text
from ssd34.machine import describe_cpu
from ssd34.zoo.names import model_path

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


Row = dict[str, Any]


def print_rows(rows: Sequence[Row], *, title: str) -> None:
    """Print a table of rows by their titles."""
    columns = list(dict.fromkeys(column for one in rows for column in one))
    table = Table(*columns, title=title)
    for one in rows:
        table.add_row(*(str(one.get(column, "")) for column in columns))
    Console(width=140).print(table)


def keep(
    file: Path | None,
    rows: Sequence[Row] | Mapping[str, Sequence[Row]],
    *,
    models: Iterable[str] = (),
    data: Iterable[str] = (),
    **more: Any,
) -> None:
    """Write rows of values, each a table's row by its titles, with what a reader needs to judge
    them.

    Args:
        file: JSON; None: nothing is kept.
        rows: of the table, or of each table by its name.
        models: names or paths of files, whose hashes are kept.
        data: data sets; kept is the hash of classes, pictures and boxes.
        more: what else was measured; of a dictionary `summary` the page says each value.
    """
    if file is None:
        return
    words = [str(Path(sys.argv[0]).resolve().relative_to(ROOT)), *sys.argv[1:]]
    hashes = {_shorten(name): compute_sha256(model_path(name)) for name in models}
    hashes |= {_shorten(path): fingerprint(open_dataset(path)) for path in data}
    versions = {}
    for name in ("onnxruntime", "openvino", "llvmlite", "torch"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    values = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["python", *map(_shorten, words)]),
        "ssd34": __version__,
        **versions,
        "cpu": describe_cpu().to_dict(),
        "sha256": hashes,
        **more,
        "rows": rows,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, values)


class Used(NamedTuple):
    """What a command took: seconds, those of processor time, and MB at most."""

    seconds: float
    processor: float
    memory: int


_RUN = """
import atexit, pathlib, runpy, sys
from ssd34.machine import measure_peak_memory
most = pathlib.Path(sys.argv.pop(1))
atexit.register(lambda: most.write_text(str(measure_peak_memory())))
runpy.run_module("ssd34", run_name="__main__", alter_sys=True)
"""


def run_command(*words: str | Path, **given: Any) -> Used:
    """Run ``ssd34`` in a process of its own and say what it took; it asks itself how much memory,
    as what the system counts for a child starts with this program's. This program ends where that
    one fails. `given` goes to `subprocess.Popen`."""
    with tempfile.TemporaryDirectory() as folder:
        most = Path(folder) / "most"
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", _RUN, most, *words], **given)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"ssd34 {' '.join(map(str, words[:2]))} ended with {process.returncode}")
        return Used(seconds, usage.ru_utime + usage.ru_stime, int(most.read_text()) >> 20)


def _shorten(word: str) -> str:
    """Without folders where it is an absolute path, which is another one elsewhere."""
    return Path(word).name if Path(word).is_absolute() else word


def make_tables(folder: Path = MEASURED) -> dict[str, str]:
    """The text of every table, by what stands in its first line: file and table."""
    made = {}
    for file in sorted(folder.glob("*.json")):
        values = json.loads(file.read_text(encoding="utf-8"))
        script = Path(__file__).with_name(f"{file.stem}.py")
        own = script.is_file() and "\ndef tables(" in script.read_text(encoding="utf-8")
        draw = runpy.run_path(str(script))["tables"] if own else draw_tables
        for name, text in draw(values).items():
            made[f"{file.stem}: {name}"] = text
    return made


def draw_tables(values: dict[str, Any]) -> dict[str, str]:
    """Every table of a measured file as it is, and below it how it came to be."""
    rows = values["rows"]
    told = "; ".join(f"{key}: {value}" for key, value in values.get("summary", {}).items())
    below = [f"{told[0].upper()}{told[1:]}.", ""] if told else []
    return {
        name: "\n".join([draw_rows(table), "", *below, say_how(values)]) + "\n"
        for name, table in (rows if isinstance(rows, dict) else {"rows": rows}).items()
    }


def draw_rows(rows: Sequence[Row]) -> str:
    """A table of rows by their titles."""
    columns = list(dict.fromkeys(column for one in rows for column in one))
    lines = [row(*columns), row(*["---"] * len(columns))]
    return "\n".join([*lines, *(row(*(one.get(c, "") for c in columns)) for one in rows)])


def say_how(values: dict[str, Any]) -> str:
    """A sentence: processor, date, versions, command, and whether a script wrote the values."""
    machine = values.get("machine") or describe_machine(values["cpu"])
    runtime = [f"ONNX Runtime {values['onnxruntime']}"] if "onnxruntime" in values else []
    how = f"{', '.join([machine, values['date'], *runtime])}: `{values['command']}`"
    return f"{how}. {values['typed']}" if "typed" in values else how


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
