"""The settings of ``ssd34 quantize``, from a YAML file and the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from ssd34.deploy.int8.quantize import PUBLISHED_FORMS, QuantizeOptions
from ssd34.deploy.search.gate import Criterion
from ssd34.deploy.search.search import Budget
from ssd34.errors import OptionError, require
from ssd34.runtime.libraries import int8_saturates
from ssd34.text import parse_yaml

MAX_CONFIG_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Which pictures the ranges come from.

    Attributes:
        data: a folder or data set; None: a part of the evaluation pictures.
        pictures: most pictures.
    """

    data: str | None = None
    pictures: int = 200

    def __post_init__(self) -> None:
        if self.pictures < 1:
            raise OptionError(f"expected 1 calibration picture or more, got {self.pictures}")


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """What is tried.

    Attributes:
        forms: kinds of file, each searched for on its own: ``12-int8`` (QOperator), ``12-qdq``
            (QDQ, one scale for each weight, as published), ``13-qdq`` (QDQ, a scale for each
            channel).
        ranges: ways of finding ranges, in the order in which they are tried.
        percentile: for the ranges of that name.
        bias_correction, float_nodes: as in `QuantizeOptions`, for all trials.
        reduce_range: weights of 7 bits in all trials; None: if this processor's fast int8
            arithmetic is wrong with 8, as without VNNI.
        image_input: ``float32`` or ``uint8``, as for export.
    """

    forms: tuple[str, ...] = ("12-int8",)
    ranges: tuple[str, ...] = ("minmax", "percentile", "mse", "entropy")
    percentile: float = 99.99
    bias_correction: bool = True
    reduce_range: bool | None = None
    float_nodes: tuple[str, ...] = ()
    image_input: str = "float32"

    def __post_init__(self) -> None:
        for name, allowed in (("forms", tuple(PUBLISHED_FORMS)), ("ranges", None)):
            values = getattr(self, name)
            if not values:
                raise OptionError(f"expected at least one of {name}, got none")
            if allowed and (wrong := [v for v in values if v not in allowed]):
                raise OptionError(f"unknown form {wrong[0]!r}; expected {', '.join(allowed)}")
        if self.image_input not in ("float32", "uint8"):
            raise OptionError(
                f"unknown image_input {self.image_input!r}; expected float32 or uint8"
            )
        for form in self.forms:
            self.candidates(form)

    @property
    def narrow_weights(self) -> bool:
        """Whether the weights get 7 bits."""
        return int8_saturates() if self.reduce_range is None else self.reduce_range

    def candidates(self, form: str) -> list[QuantizeOptions]:
        """The options to try for a form, in order."""
        return [
            PUBLISHED_FORMS[form].replace(
                ranges=ranges,
                percentile=self.percentile,
                bias_correction=self.bias_correction,
                reduce_range=self.narrow_weights,
                float_nodes=tuple(sorted(self.float_nodes)),
            )
            for ranges in self.ranges
        ]


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """All settings; each part is a section of the YAML file.

    Attributes:
        calibration: which pictures the ranges come from.
        quantization: what is tried.
        criterion: what is good enough.
        search: how long to look for it.
        rounds: how often each file is timed in a trial.
    """

    calibration: Calibration = field(default_factory=Calibration)
    quantization: Quantization = field(default_factory=Quantization)
    criterion: Criterion = field(default_factory=Criterion)
    search: Budget = field(default_factory=Budget)
    rounds: int = 30

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise OptionError(f"expected rounds of 1 or more, got {self.rounds}")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` is its inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QuantizeConfig:
        """The settings of a mapping; what it leaves out keeps its default.

        Raises:
            OptionError: a section or setting is unknown, of another type, or outside what is
                allowed.
        """
        config: QuantizeConfig = _built(cls, values, where="")
        return config

    def changed(self, changes: Mapping[str, Mapping[str, Any] | Any]) -> QuantizeConfig:
        """A copy with some settings changed; None changes nothing."""
        values = self.to_dict()
        for name, value in changes.items():
            if isinstance(value, Mapping):
                values[name] |= {key: v for key, v in value.items() if v is not None}
            elif value is not None:
                values[name] = value
        return self.from_dict(values)


_SECTIONS = {
    "calibration": Calibration,
    "quantization": Quantization,
    "criterion": Criterion,
    "search": Budget,
}


def _built(kind: type[Any], values: object, *, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise OptionError(
            f"{where or 'the file'}: expected settings by name, got {shortened(values)}"
        )
    fields = {f.name: f for f in dataclasses.fields(kind)}
    made: dict[str, Any] = {}
    for name, value in values.items():
        label = f"{where}.{name}" if where else str(name)
        if name not in fields:
            raise OptionError(f"unknown setting {label!r}; expected one of {', '.join(fields)}")
        if name in _SECTIONS and kind is QuantizeConfig:
            made[name] = _built(_SECTIONS[name], {} if value is None else value, where=label)
        else:
            made[name] = _typed(value, str(fields[name].type), label)
    return kind(**made)


def _typed(value: object, kind: str, label: str) -> Any:
    """A value of the setting's type, or an error that names it."""
    kinds = [part.strip() for part in kind.split("|")]
    if value is None and "None" in kinds:
        return None
    match kinds[0]:
        case "bool" if isinstance(value, bool):
            return value
        case "int" if isinstance(value, int) and not isinstance(value, bool):
            return value
        case "float" if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        case "str" if isinstance(value, str):
            return value
        case "tuple[str, ...]" if isinstance(value, str):
            return (value,)
        case "tuple[str, ...]" if isinstance(value, list | tuple) and all(
            isinstance(each, str) for each in value
        ):
            return tuple(value)
    expected = {"tuple[str, ...]": "a list of names", "str": "a text", "int": "a whole number",
                "float": "a number", "bool": "true or false"}[kinds[0]]  # fmt: skip
    raise OptionError(f"{label}: expected {expected}, got {shortened(value)}")


def read_config(path: Path) -> QuantizeConfig:
    """Read a YAML file of settings.

    Raises:
        OptionError: missing, not YAML, a key stands twice, or a setting is not as expected.
        MissingExtraError: PyYAML is not installed.
    """
    require("yaml", extra="quantize", why="a YAML configuration")
    if not path.is_file():
        raise OptionError(f"{path}: no such file; expected a YAML file of settings")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise OptionError(f"{path}: too large for a file of settings")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OptionError(f"{path}: not YAML ({error!s:.160})") from None
    try:
        return QuantizeConfig.from_dict({} if values is None else values)
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from None
