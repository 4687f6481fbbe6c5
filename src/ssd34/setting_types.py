"""Checks the values of settings by their types: dataclasses with ``Annotated`` ranges say what is
allowed, and msgspec checks it."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from reprlib import repr as shortened
from typing import Any

import msgspec
from msgspec import Meta, inspect

from ssd34.errors import OptionError

T = typing.TypeVar("T")

Share = typing.Annotated[float, Meta(ge=0, le=1)]
Count = typing.Annotated[int, Meta(ge=1)]


def kinds_of(owner: type) -> dict[str, Any]:
    """The type of each setting of a dataclass, with its range."""
    return typing.get_type_hints(owner, include_extras=True)


def check(name: str, value: Any, kind: Any) -> Any:
    """A value as its type has it: a list becomes a tuple, a whole number a float; OptionError where
    it is of another type, or out of its range."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeEncodeError):  # the second of half a character
        raise OptionError(
            f"expected {name} to be {describe_kind(kind)}, got {shortened(value)}"
        ) from None


def check_fields(settings: Any) -> None:
    """`check` every value of a dataclass, but for those that are dataclasses themselves."""
    for name, kind in kinds_of(type(settings)).items():
        if not dataclasses.is_dataclass(kind):
            check(name, getattr(settings, name), kind)


def read_fields(owner: type[T], values: object, where: str = "") -> T:
    """A dataclass, and those in it, from JSON or YAML values; what is left out gets its default, a
    list may be a single text. OptionError where a value is unknown or not allowed; `where` stands
    before its name."""
    if not isinstance(values, Mapping):
        raise OptionError(
            f"{where or 'the file'}: expected settings by name, got {shortened(values)}"
        )
    kinds = kinds_of(owner)
    given = {}
    for name, value in values.items():
        label = f"{where}.{name}" if where else str(name)
        if name not in kinds:
            raise OptionError(f"unknown setting {label!r}; expected one of {', '.join(kinds)}")
        kind, inner = kinds[name], dataclasses.is_dataclass(kinds[name])
        if inner:
            given[name] = read_fields(kind, {} if value is None else value, label)
        else:
            alone = isinstance(value, str) and isinstance(
                inspect.type_info(kind), inspect.VarTupleType
            )
            given[name] = check(label, [value] if alone else value, kind)
    return owner(**given)


def describe_kind(kind: Any) -> str:
    """What values a type has, in words."""
    return _described(inspect.type_info(kind))


def _described(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.UnionType):
        return " or ".join(map(_described, kind.types))
    if isinstance(kind, inspect.LiteralType):
        return " or ".join(map(str, kind.values))
    if isinstance(kind, inspect.VarTupleType):
        if isinstance(kind.item_type, inspect.LiteralType):
            return f"one or more of {', '.join(map(str, kind.item_type.values))}"
        names = isinstance(kind.item_type, inspect.StrType)
        return "a list of names" if names else "numbers such as 40,50"
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        name = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
        bounds = (("from", kind.ge), ("above", kind.gt), ("to", kind.le), ("below", kind.lt))
        return " ".join([name, *(f"{word} {at:g}" for word, at in bounds if at is not None)])
    simple = {inspect.BoolType: "true or false", inspect.NoneType: "none"}
    return simple.get(type(kind), "a text")
