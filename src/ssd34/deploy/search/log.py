"""The trials of a search, and what its layers cost, on disk, so that it can be resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ssd34.deploy.int8.plan import QuantizeOptions
from ssd34.deploy.search.bench import LayerCost
from ssd34.deploy.search.gate import Criterion, Trial, judge
from ssd34.errors import OptionError
from ssd34.files.atomic import naming, write_json, write_text

FORMAT = "ssd34-trials-1"
LAYERS_FORMAT = "ssd34-layers-2"


class TrialLog:
    """``trials.jsonl``: its first line says what the trials measure, the others are trials.

    Attributes:
        earlier: trials that it already held, judged by today's criterion.
        count: trials that it holds now.
    """

    def __init__(
        self, path: Path, *, subject: Mapping[str, Any], criterion: Criterion, resume: bool
    ) -> None:
        """Continue with the trials that are there, to `resume`, else there must be none. The
        `subject` is what trials must have in common to be compared: network, pictures, machine.
        OptionError: they are of another subject or no trials of ours."""
        self.path = path
        self._header = json.dumps({"format": FORMAT, "subject": dict(subject)}, sort_keys=True)
        self.earlier: tuple[Trial, ...] = ()
        self.count = 0
        if not path.exists():  # it is written with the first trial
            return
        if not resume:
            raise OptionError(
                f"{path}: holds trials of an earlier search; give --resume to continue with them, "
                "or another --output"
            )
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        self._check_header(lines[0], subject)
        rows = [line for line in lines[1:] if line]
        if lines[-1]:  # cut off while it was written: the trial is measured again
            rows.pop()
        try:
            found = [Trial.from_dict(json.loads(row)) for row in rows]
            self.earlier = tuple(
                judge(trial, trial.options, number=number, criterion=criterion)
                for number, trial in enumerate(found, start=1)
            )
        except (ValueError, ArithmeticError, msgspec.ValidationError, OptionError) as error:
            raise OptionError(
                f"{path}: a line is not a trial ({error}); give another --output"
            ) from None
        self.count = len(self.earlier)
        self._rewrite()

    def _check_header(self, line: str, subject: Mapping[str, Any]) -> None:
        try:
            header = json.loads(line)
            known = header["subject"] if header["format"] == FORMAT else None
        except (ValueError, KeyError, TypeError):
            known = None
        if not isinstance(known, dict):
            raise OptionError(f"{self.path}: is no list of trials; give another --output")
        differing = sorted(
            name for name in {*known, *subject} if known.get(name) != subject.get(name)
        )
        if differing:
            name = differing[0]
            raise OptionError(
                f"{self.path}: its trials cannot be compared with this search: {name} was "
                f"{known.get(name)}, now {subject.get(name)}; give another --output"
            )

    def _rewrite(self) -> None:
        rows = [json.dumps(trial.to_dict()) for trial in self.earlier]
        write_text(self.path, "\n".join([self._header, *rows]) + "\n")

    def add(self, trial: Trial) -> None:
        """Append a trial."""
        if not self.path.exists():
            self._rewrite()
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(trial.to_dict()) + "\n")
        self.count += 1


class LayerLog:
    """``layers.json``: the layers as they were ranked, for each file that was taken apart."""

    def __init__(self, path: Path, *, subject: Mapping[str, Any], resume: bool) -> None:
        """What is in the file serves with `resume`, and if it is of the same subject."""
        self.path = path
        self._subject = json.loads(json.dumps(dict(subject)))
        self._known: dict[QuantizeOptions, list[LayerCost]] = {}
        if resume and path.exists():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                if content["format"] == LAYERS_FORMAT and content["subject"] == self._subject:
                    self._known = {
                        QuantizeOptions.from_dict(row["options"]): [
                            LayerCost.from_dict(layer) for layer in row["layers"]
                        ]
                        for row in content["rankings"]
                    }
            except (ValueError, KeyError, TypeError, msgspec.ValidationError, OptionError):
                self._known = {}  # broken: it is measured again

    def known(self, options: QuantizeOptions) -> list[LayerCost] | None:
        """The ranking of a file, if it was measured."""
        return self._known.get(options)

    def add(self, options: QuantizeOptions, costs: Sequence[LayerCost]) -> None:
        """Keep the ranking of a file."""
        self._known[options] = list(costs)
        content = {
            "format": LAYERS_FORMAT,
            "subject": self._subject,
            "rankings": [
                {"options": known.to_dict(), "layers": [cost.to_dict() for cost in costs]}
                for known, costs in self._known.items()
            ],
        }
        write_json(self.path, content)
