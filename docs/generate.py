"""What the documentation says of the code, read from the code: options, settings, the Python API.

    python docs/generate.py

It is written between the lines ``<!-- options: detect -->`` and ``<!-- end -->`` of commands.md,
settings.md and api.md. A test says when it is not what the code has.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click

import ssd34
from ssd34.cli.app import commands
from ssd34.deploy.search.config import QuantizeConfig
from ssd34.setting_types import describe_kind, kinds_of
from ssd34.train.examples.augment import Augmentation
from ssd34.train.options import AUGMENTATION, SETTINGS, TrainOptions, write_setting
from ssd34.train.recipe import RECIPES, list_defaults

DOCS = Path(__file__).parent
sys.path.append(str(DOCS.parent / "benchmarks"))
from tables import fill, row  # noqa: E402

RULE = "---"
OTHER_SETTINGS = {
    "spec": "the network; `auto`: that of the detector in `init`, else the first",
    "head_norm": "batch norm in the extra blocks; `false` for the published checkpoints",
    "init": "what to start from, as `--init`",
    "labels": "the classes: COCO's 80, or those of the data; `auto`: COCO's if every one of them "
    "is in the data",
    "coco_names": "COCO's names for VOC's classes, in the data and in those of the evaluations",
    "tensorboard": "write TensorBoard's events, too, into `tensorboard/`; needs "
    "`ssd34[tensorboard]` to write and `pip install tensorboard` to look",
}
"""The settings that are no fields of `TrainOptions`."""

SIGNATURE = 88
"""The longest signature that stands on one line, in characters."""


def main() -> None:
    """Write what has changed."""
    made = make_parts()
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (filled := fill(text, made)) != text:
            page.write_text(filled, encoding="utf-8")
            print(page.name)


def make_parts() -> dict[str, str]:
    """Every generated part, by what stands in its first line."""
    made = {f"options: {name}": list_options(command) for name, command in every_command(commands)}
    return made | describe_settings() | {"api: public": describe_api()}


def every_command(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """All commands that do something, by their names."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def list_options(command: click.Command) -> str:
    """A table of a command's options: from click, as in its help."""
    above = click.Context(commands, **commands.context_settings)
    context = click.Context(command, parent=above, **command.context_settings)
    lines = [row("option", "meaning", "default"), row(RULE, RULE, RULE)]
    for option in command.params:
        if not isinstance(option, click.Option) or option.hidden or option.name == "help":
            continue
        names = " / ".join([*option.opts[-1:], *option.secondary_opts])
        about, extra = _cell(option.help or ""), option.get_help_extra(context)
        said = re.search(r" ?\[default: (.+)\]$", about)
        default = said[1] if said else _code(extra.get("default", ""))
        about = about.removesuffix(said[0]) if said else about
        if isinstance(option.type, click.Choice):
            about += f" One of {', '.join(map(_code, option.type.choices))}."
        elif "range" in extra:
            about += f" {_range(extra['range'])}."
        takes = "" if option.is_flag else f" {_metavar(option, context)}"
        lines.append(
            row(f"`{names}{takes}`", about.strip(), "required" if option.required else default)
        )
    return "\n".join(lines) + "\n"


def _metavar(option: click.Option, context: click.Context) -> str:
    if isinstance(option.type, click.Choice) and not option.metavar:
        return "NAME"
    return option.make_metavar(context).removesuffix(" RANGE")


def _range(text: str) -> str:
    """`0<=x<=1` in words."""
    low, _, high = text.partition("x") if text[0] != "x" else ("", "", text[1:])
    words = {"<=": "at most", "<": "below", ">=": "at least", ">": "above"}
    if low.endswith("<") and high:
        return f"Above {low.rstrip('<')}, {words[high.rstrip('0123456789.')]} {high.lstrip('<=')}"
    if low:
        return f"{low.rstrip('<=')} to {high.lstrip('<=')}"
    sign = re.match("[<>=]+", high)
    assert sign, text
    return f"{words[sign[0]]} {high[len(sign[0]) :]}".capitalize()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: object) -> str:
    return f"`{text}`" if text != "" else ""


def describe_settings() -> dict[str, str]:
    """The recipes and every setting of training and quantization."""
    defaults = list_defaults()
    recipes = [row("recipe", "for"), row(RULE, RULE)]
    recipes += [row(_code(recipe.name), recipe.about) for recipe in RECIPES.values()]
    differing = [
        row("setting", "default", *map(_code, RECIPES)),
        row(RULE, RULE, *[RULE] * len(RECIPES)),
    ]
    for key, default in defaults.items():
        values = [recipe.settings.get(key, default) for recipe in RECIPES.values()]
        if any(value != default for value in values):
            shown = [_value(value) if value != default else "" for value in values]
            differing.append(row(_code(key), _value(default), *shown))
    about = OTHER_SETTINGS | _attributes(TrainOptions) | _attributes(Augmentation)
    run, augmentation = (
        [row("setting", "takes", "default", "meaning"), row(*[RULE] * 4)] for _ in "12"
    )
    for key, kind in SETTINGS.items():
        (augmentation if key in AUGMENTATION else run).append(
            row(_code(key), describe_kind(kind), _value(defaults[key]), about[key])
        )
    parts = {
        "recipes": recipes,
        "differences": differing,
        "run": run,
        "augmentation": augmentation,
        "quantize": _quantize_settings(),
    }
    return {f"settings: {name}": "\n".join(lines) + "\n" for name, lines in parts.items()}


def _quantize_settings() -> list[str]:
    config = QuantizeConfig()
    lines = [row("setting", "takes", "default", "meaning"), row(*[RULE] * 4)]
    for name, kind in kinds_of(QuantizeConfig).items():
        part = getattr(config, name)
        if not dataclasses.is_dataclass(part):
            lines.append(
                row(
                    _code(name),
                    describe_kind(kind),
                    _value(part),
                    _attributes(QuantizeConfig)[name],
                )
            )
            continue
        about = CALIBRATION | _attributes(type(part))
        for key, inner in kinds_of(type(part)).items():
            value = _value(getattr(part, key))
            lines.append(row(_code(f"{name}.{key}"), describe_kind(inner), value, about[key]))
    return lines


CALIBRATION = {
    "data": "a folder of pictures, or a data set, that the ranges come from; `none`: every third "
    "picture of `--data`, which is then not measured on",
    "pictures": "how many of them, at most",
}


def _value(value: Any) -> str:
    if isinstance(value, tuple) and all(isinstance(part, str) for part in value):
        return _code(", ".join(value)) if value else "none"
    return _code(write_setting(value))


def _attributes(owner: type) -> dict[str, str]:
    """What a dataclass's docstring says of each field, on one line each."""
    found = {}
    _, sections = split_docstring(owner.__doc__ or "")
    for names, text in sections.get("Attributes", []):
        for name in names.split(", "):
            found[name] = re.sub(r"\bNone\b", "`none`", text).removesuffix(".")
    return found


def split_docstring(doc: str) -> tuple[str, dict[str, list[tuple[str, str]]]]:
    """Its text, and each section's items: name and meaning."""
    lines = re.sub(r"``(.+?)``", r"`\1`", inspect.cleandoc(doc)).splitlines()
    text: list[str] = []
    sections: dict[str, list[tuple[str, str]]] = {}
    items: list[tuple[str, str]] | None = None
    for line in lines:
        if re.fullmatch(r"(Args|Attributes|Raises|Returns|Yields|Example):", line):
            items = sections.setdefault(line[:-1], [])
        elif items is None or (line and not line.startswith(" ")):
            items = None
            text.append(line)
        elif (found := re.match(r"    ([\w, *]+): (.+)", line)) and not line.startswith("     "):
            items.append((found[1], found[2]))
        elif line.strip():
            name, before = items.pop() if items else ("", "")
            items.append((name, f"{before} {line.strip()}".strip()))
    return "\n".join(text).strip(), sections


def describe_api() -> str:
    """Everything public of `ssd34`, then what the pages' code imports from below it."""
    extras = ("export", "ExportOptions", "Exported", "quantize", "QuantizeConfig", "Quantized")
    public = {name: getattr(ssd34, name) for name in (*ssd34.__all__, *extras)}
    public = {name: _unwrapped(name, value) for name, value in public.items()}
    groups: dict[str, list[str]] = {
        "Functions": [], "Classes": [], "Errors": [], "Values": [], "Below the package": [],
    }  # fmt: skip
    for name, value in sorted(public.items(), key=lambda item: item[0].lower()):
        if not callable(value):
            groups["Values"].append(f"- `ssd34.{name}`: `{type(value).__name__}`")
        elif inspect.isclass(value) and issubclass(value, Exception):
            text, _ = split_docstring(value.__doc__ or "")
            base = value.__bases__[0].__name__
            groups["Errors"].append(f"- `ssd34.{name}`, of `{base}`: {' '.join(text.split())}")
        else:
            kind = "Classes" if inspect.isclass(value) else "Functions"
            groups[kind].append(_describe(f"ssd34.{name}", value))
    known = {id(value) for value in public.values()}
    for name, value in sorted(named_on_pages().items()):
        if id(value) not in known:
            groups["Below the package"].append(_describe(name, value))
    parts = []
    for title, items in groups.items():
        parts.append(
            f"## {title}\n\n" + ("\n" if items[0].startswith("- ") else "\n\n").join(items)
        )
    return "\n\n".join(parts) + "\n"


def _unwrapped(name: str, value: Any) -> Any:
    """`ssd34.train` is a package that can be called; its workflow has the signature."""
    if inspect.ismodule(value):
        return getattr(import_module(f"ssd34.workflows.{name}"), name)
    return value


def named_on_pages() -> dict[str, Any]:
    """Functions and classes below `ssd34` that code on the pages imports, by their full names."""
    found = {}
    for page in DOCS.glob("*.md"):
        for code in re.findall(
            r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ssd34."):
                    for alias in node.names:
                        value = getattr(import_module(str(node.module)), alias.name)
                        if inspect.isfunction(value) or inspect.isclass(value):
                            found[f"{node.module}.{alias.name}"] = value
    return found


def _describe(name: str, value: Any) -> str:
    """A heading, the signature, the docstring; of a class its methods, too."""
    parts = [f"### {name}", _signature(name.rpartition(".")[2], value), _docstring(value.__doc__)]
    if inspect.isclass(value):
        for key, member in inspect.getmembers_static(value):
            if key.startswith("_") or not _is_documented(value, key):
                continue
            if isinstance(member, property):
                text = " ".join(split_docstring(member.__doc__ or "")[0].split())
                parts.append(f"**`{key}`** {text}")
            elif callable(getattr(value, key)):
                method = getattr(value, key)
                parts += [_signature(f"{value.__name__}.{key}", method), _docstring(method.__doc__)]
    return "\n\n".join(part for part in parts if part)


def _is_documented(owner: type, key: str) -> bool:
    member = inspect.getattr_static(owner, key)
    return bool(getattr(member, "__doc__", None)) and (
        isinstance(member, property | classmethod | staticmethod) or inspect.isfunction(member)
    )


def _signature(name: str, value: Any) -> str:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    words, star = [], False
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            words.append("*")
        star |= parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(parameter.kind.name, "")
        word = f"{stars}{parameter.name}"
        if parameter.annotation is not parameter.empty:
            word += f": {_type_name(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            shown = repr(parameter.default)
            word += " = ..." if len(shown) > 30 or "<" in shown else f" = {shown}"
        words.append(word)
    returned = signature.return_annotation
    end = (
        ""
        if returned is signature.empty or inspect.isclass(value)
        else f" -> {_type_name(returned)}"
    )
    text = f"{name}({', '.join(words)}){end}"
    if len(text) > SIGNATURE:
        text = f"{name}(\n" + "".join(f"    {word},\n" for word in words) + f"){end}"
    return f"```py\n{text}\n```"


def _type_name(annotation: Any) -> str:
    """As it is written in the code; a NamedTuple keeps its fields' types as references."""
    annotation = getattr(annotation, "__forward_arg__", annotation)
    return (
        annotation
        if isinstance(annotation, str)
        else getattr(annotation, "__name__", str(annotation))
    )


def _docstring(doc: str | None) -> str:
    text, sections = split_docstring(doc or "")
    parts = [text]
    for title, items in sections.items():
        if title in ("Returns", "Yields"):
            parts.append(
                f"{title}: "
                + " ".join(f"{name}: {about}" if name else about for name, about in items)
            )
        elif title != "Example":
            names = ((", ".join(map(_code, name.split(", "))), about) for name, about in items)
            before = {"Raises": "Raises\n\n"}.get(title, "")
            parts.append(before + "\n".join(f"- {name}: {about}" for name, about in names))
    return "\n\n".join(part for part in parts if part)


if __name__ == "__main__":
    main()
