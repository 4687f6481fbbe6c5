"""Numbers with their nouns, for messages."""

from __future__ import annotations

from decimal import Decimal

import numpy as np


def counted(number: int, noun: str) -> str:
    """``1 picture``, ``2 pictures``, ``2 boxes``; an adjective may go before the noun."""
    plural = "" if number == 1 else "es" if noun.endswith(("s", "x")) else "s"
    return f"{number} {noun}{plural}"


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
