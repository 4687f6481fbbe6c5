"""Numbers with their nouns for messages; YAML and JSON that people write by hand."""

from __future__ import annotations

import functools
import json
import re
from decimal import Decimal
from typing import Any

import numpy as np


def counted(number: int, noun: str) -> str:
    """``1 picture``, ``2 pictures``, ``2 boxes``; an adjective may go before the noun."""
    plural = "" if number == 1 else "es" if noun.endswith(("s", "x")) else "s"
    return f"{number} {noun}{plural}"


def one_line(error: object, most: int = 200) -> str:
    """The text of an error without line breaks, at most so many characters."""
    return " ".join(str(error).split())[:most]


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


_TOKENS = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?|[{}\[\]]')


def parse_json(text: str) -> Any:
    """The value of a JSON text; ValueError, which names the line, where it is no JSON, nested too
    deeply, or a key stands twice."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
    above: list[dict[str, int]] = []
    for token in _TOKENS.finditer(text):
        line = text.count("\n", 0, token.start()) + 1
        if token[0] in "{[":
            above.append({})
        elif token[0] in "}]":
            above.pop()
        elif token[2]:
            _note(above[-1], json.loads(token[1]), line)
    return value


def parse_yaml(text: str | bytes, *, scalars_as_text: bool = False) -> Any:
    """The value of a YAML text, or bytes, decoded as YAML says; the package PyYAML has to be there.
    With `scalars_as_text` ``no`` is "no" and ``1`` is "1". Errors are those of `parse_json`."""
    import yaml

    try:
        return _loader("BaseLoader" if scalars_as_text else "SafeLoader")(text).get_single_data()
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except (AttributeError, KeyError) as error:  # of PyYAML, for `!!bool maybe`
        raise ValueError(f"a value does not fit its tag ({error!r})") from None


@functools.cache
def _loader(name: str) -> Any:
    """A loader of PyYAML's that looks at the keys."""
    import yaml

    base: Any = getattr(yaml, name)

    class KeyLoader(base):  # type: ignore[misc]
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            seen: dict[Any, int] = {}
            for key, _ in node.value:  # what << brings in comes later, and may be overridden
                if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                    _note(seen, self.construct_object(key), key.start_mark.line + 1)
            return node

    return KeyLoader


def _note(seen: dict[Any, int], key: Any, line: int) -> None:
    if key in seen:
        raise ValueError(f"line {line}: {key!r} stands there twice, first in line {seen[key]}")
    seen[key] = line
