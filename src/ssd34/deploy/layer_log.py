"""What the layers cost, on disk: to read, and so that a resumed search keeps its order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssd34.data.atomic import write_text
from ssd34.deploy.quantize import QuantizeOptions
from ssd34.deploy.sensitivity import LayerCost
from ssd34.errors import OptionError

FORMAT = "ssd34-layers-2"


class LayerLog:
    """``layers.json``: the layers as they were ranked, for each file that was taken apart."""

    def __init__(self, path: Path, *, subject: Mapping[str, Any], resume: bool) -> None:
        """
        Args:
            path: in an existing folder.
            subject: as for the trials; what was measured of another is left out.
            resume: whether what the file holds may serve.
        """
        self.path = path
        self._subject = json.loads(json.dumps(dict(subject)))
        self._known: dict[QuantizeOptions, list[LayerCost]] = {}
        if resume and path.exists():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                if content["format"] == FORMAT and content["subject"] == self._subject:
                    self._known = {
                        QuantizeOptions.from_dict(row["options"]): [
                            LayerCost.from_dict(layer) for layer in row["layers"]
                        ]
                        for row in content["rankings"]
                    }
            except (ValueError, KeyError, TypeError, OptionError):  # broken: it is measured again
                self._known = {}

    def known(self, options: QuantizeOptions) -> list[LayerCost] | None:
        """The ranking of a file, if it was measured."""
        return self._known.get(options)

    def add(self, options: QuantizeOptions, costs: Sequence[LayerCost]) -> None:
        """Keep the ranking of a file."""
        self._known[options] = list(costs)
        content = {
            "format": FORMAT,
            "subject": self._subject,
            "rankings": [
                {"options": known.to_dict(), "layers": [cost.to_dict() for cost in costs]}
                for known, costs in self._known.items()
            ],
        }
        write_text(self.path, json.dumps(content, indent=1) + "\n")
