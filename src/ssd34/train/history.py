"""``history.jsonl``: a record of every logged step, evaluation and problem of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_history(path: Path, *, until: int | None = None) -> list[dict[str, Any]]:
    """The records of a ``history.jsonl``, or those up to a step; a line cut by a crash is left out,
    and there are none without a file."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return [record for record in records if until is None or record["step"] <= until]


def other_policy(written: Mapping[str, Any], policy: str | None) -> str | None:
    """The policy that evaluations picked by when something was written, if it is another one than
    this; older versions did not write it."""
    was: str | None = written.get("policy", policy)
    return was if was != policy else None
