"""What a verification found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FileCheck:
    """One thing that was looked at.

    Attributes:
        name: what.
        passed: None: it was not run.
        detail: what was measured, or one line for each mismatch, or why it was not run.
    """

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Verification:
    """All checks of one file, in the order in which they were made."""

    file: Path
    checks: tuple[FileCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed is not False for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "file": str(self.file),
            "passed": self.passed,
            "checks": [
                {"name": check.name, "passed": check.passed, "detail": check.detail}
                for check in self.checks
            ],
        }


def check(name: str, problems: Sequence[str], good: str) -> FileCheck:
    """A check that passes where there are no problems; `good` says what is well then."""
    return FileCheck(name, not problems, "\n".join(problems) or good)


def not_run(names: Sequence[str], why: str) -> list[FileCheck]:
    """Checks that were left out."""
    return [FileCheck(name, None, why) for name in names]
