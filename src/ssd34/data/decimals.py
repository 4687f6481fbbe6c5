"""Single precision numbers as the short decimals that stand for them.

A file's 27.03 is 27.030000686... once it is a float32. Arithmetic on what was meant, 27.03, keeps
files short, and reading them gives the same float32 again.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np


def shortest(value: np.float32) -> Decimal:
    """The shortest decimal that reads as this number; finite."""
    return Decimal(str(value))


def plain(value: Decimal | float) -> str:
    """A number without exponent and trailing zeros, exact for a Decimal and to the last bit for a
    float."""
    if isinstance(value, float):
        return np.format_float_positional(value, trim="-")
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
