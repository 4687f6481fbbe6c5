"""Numbers with their nouns, for messages."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """``1 picture``, ``2 pictures``, ``2 boxes``; an adjective may go before the noun."""
    plural = "" if number == 1 else "es" if noun.endswith(("s", "x")) else "s"
    return f"{number} {noun}{plural}"
