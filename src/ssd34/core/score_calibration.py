"""Score calibration: what makes a score of 0.7 mean right in 7 of 10 cases.

Training with hard-negative mining, the detector sees fewer negatives than there are, so the
background's logit comes out too low. An offset on it puts that right, folded into the biases of the
confidence heads: the graph stays as it is and every engine computes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.errors import OptionError

CONFIDENCE_BIASES = r"heads\.conf\.\d+\.bias"
"""What the biases of the confidence heads are called, as a regular expression."""


@dataclass(frozen=True, kw_only=True)
class ScoreCalibration:
    """What is added to the background's logit of every default box: finite, above 0 every score
    falls, below 0 every score rises."""

    background_offset: float

    def __post_init__(self) -> None:
        value = self.background_offset
        if type(value) not in (int, float) or not math.isfinite(value):
            raise OptionError(f"expected a finite background_offset, got {value!r}")

    def apply(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated logits (channels, A) float32 of raw ones; channel 0 is background."""
        calibrated = logits.copy()
        calibrated[0] += np.float32(self.background_offset)
        return calibrated

    def fold(self, bias: NDArray[np.float32], *, channels: int) -> NDArray[np.float32]:
        """A confidence head's bias (channels * boxes,) float32, ordered by class, calibrated."""
        return self.apply(bias.reshape(channels, -1)).reshape(-1)

    def unfold(self, bias: NDArray[np.float32], *, channels: int) -> NDArray[np.float32]:
        """The inverse of `fold`, up to rounding."""
        negative = ScoreCalibration(background_offset=-self.background_offset)
        return negative.fold(bias, channels=channels)

    def to_json(self) -> str:
        """The form in files' metadata."""
        return json.dumps({"background_offset": self.background_offset})

    @classmethod
    def in_metadata(cls, metadata: Mapping[str, str], key: str) -> ScoreCalibration | None:
        """The one under a key of a file's metadata, if any; OptionError where it is broken."""
        if key not in metadata:
            return None
        try:
            values: Any = json.loads(metadata[key])
            return cls(background_offset=values["background_offset"])
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise OptionError(f"broken score calibration ({error})") from None
