"""The documentation's code runs.

- ```python blocks are executed, all blocks of a page in one namespace, in the project's folder.
- ```console blocks hold `$ ssd34 ...` lines that are executed and must succeed; training runs at
  64 pixels. Lines below a command are what it prints.
- ```js blocks run in a browser, in test_try_page.py.
- ```sh blocks hold commands that take too long here; their options must exist.
"""

import importlib.util
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib

import click
import pytest

from ssd34.cli.app import commands
from tests.conftest import ROOT
from tests.support.cli import every_command, run_main

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")])
BLOCK = re.compile(r"^( *)(```+|~~~+)([^\n]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
"""A fence: its indentation, marks, language, and what stands in it. It may stand in a list."""
LANGUAGES = {"", "bash", "console", "dockerfile", "js", "json", "py", "python", "sh", "xml", "yaml"}
ELSEWHERE = [
    ROOT / name
    for name in ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "examples/README.md")
]


def blocks(language):
    pages = []
    for page in PAGES:
        every = BLOCK.finditer(page.read_text())
        found = [textwrap.dedent(m[4]) for m in every if m[3] == language]
        if found:
            pages.append(pytest.param(found, id=str(page.relative_to(ROOT))))
    return pages


def command_lines(block):
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words:
            yield words


@pytest.mark.parametrize("pieces", blocks("python"))
def test_python_blocks_run(pieces, tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    # Not a file, which every process that the page starts would run again.
    command = [sys.executable, "-W", "error", "-c", "\n".join([ONE_PROCESSOR, *pieces])]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


ONE_PROCESSOR = "import os; os.sched_getaffinity = lambda _: {0}"
"""Several threads wait for each other more than they compute, where other tests run, too."""

SMALLER = {
    "train": ("--set", "small_size=64", "--set", "small_share=1", "--workers", "0"),
    "benchmark": ("--rounds", "1", "--warm-up", "0", "--threads", "1"),
}
"""Options that make a command of a page quick enough for a test."""


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("pieces", blocks("console"))
def test_console_blocks_run(pieces, tmp_path, monkeypatch, capfd):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    for line, shown in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", "\n".join(pieces), re.MULTILINE):
        words = shlex.split(line)
        assert words[0] == "ssd34"
        command = (*words[1:], *SMALLER.get(words[1], ()))
        code, out, err = run_main(monkeypatch, capfd, *command)
        assert code == 0, err
        assert not shown.strip() or same_but_for_rounding(shown, out), line


def same_but_for_rounding(shown, out):
    """Whether numbers in rows of tables differ by one at most, and nothing else: between
    processors floating-point sums differ in the last digits."""
    numbers, rests = [], []
    for text in (shown, out):
        rows = "".join(re.findall(r"^│.*", text, re.MULTILINE))
        numbers.append([int(one) for one in re.findall(r"\d+", rows)])
        in_row = r"(?<=│)[^│\n]*"
        rests.append(re.sub(in_row, lambda cell: re.sub(r"[\d ]+", " ", cell[0]), text).strip())
    return rests[0] == rests[1] and all(abs(a - b) <= 1 for a, b in zip(*numbers, strict=True))


def test_rounding_is_all_that_may_differ():
    row = "title\n│ a.jpg │ person │   78% │   94 │\n"
    assert same_but_for_rounding(row, row.replace("78%", "79%").replace("94", "95"))
    for old, new in (("78%", "80%"), ("person", "horse"), ("94", "94 │ 1"), ("title", "title 1")):
        assert not same_but_for_rounding(row, row.replace(old, new))


@pytest.mark.parametrize("pieces", blocks("sh"))
def test_shell_blocks_use_options_that_exist(pieces):
    for block in pieces:
        for words in command_lines(block):
            if words[0] != "ssd34":
                assert words[0] in (".", "make", "pip", "git", "cd", "cp", "python", "torchrun")
                continue
            parse(commands, words[1:])


def test_scripts_that_pages_run_have_these_options():
    seen = 0
    for page in [*PAGES, *ELSEWHERE]:
        text = page.read_text().replace("\\\n", " ")
        for script, rest in re.findall(r"python ((?:benchmarks|docs)/[\w/]+\.py)([^`\n]*)", text):
            for option in re.findall(r"--[\w-]+", rest):
                assert f'"{option}"' in (ROOT / script).read_text(), f"{page}: {script} {option}"
                seen += 1
    assert seen > 20


def test_commands_that_reproduce_numbers_parse():
    rows = re.findall(r"^\|.*", (ROOT / "docs" / "reproduce.md").read_text(), re.MULTILINE)
    found = re.findall(r"`ssd34 ([^`]+)`", "\n".join(rows))
    assert len(found) > 5
    for line in found:
        parse(commands, shlex.split(line))


def parse(group, words):
    """Raises where a word is neither a command nor an option that the command has."""
    name, *rest = words
    command = group.commands[name]
    if isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        parse(command, rest)
    else:
        command.make_context(name, rest, **commands.context_settings)  # keeps its help option


def test_fences_have_languages_that_are_run_or_need_not_be():
    for page in PAGES:
        for found in BLOCK.finditer(page.read_text()):
            assert found[3] in LANGUAGES, f"{page}: {found[3]}"


def without_code(text):
    return re.sub(r"`[^`\n]+`", "", BLOCK.sub("", text))


def anchors(page):
    """What a code host and the site call the page's headings."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
        found.add(name if name not in found else f"{name}-1")
    return found


def test_links_and_anchors_lead_somewhere():
    checked = 0
    for page in [*PAGES, *ELSEWHERE]:
        for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
            if target.startswith(("http", "mailto:")):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path) if path else page
            assert file.exists(), f"{page}: {target}"
            if anchor:
                assert anchor in anchors(file), f"{page}: {target}"
                checked += 1
    assert checked > 50


SOURCE = re.compile(r"`((?:ssd34|benchmarks|tests|src|\w+)/[\w./]+\.py)(?:[: ][^`]*)?`")
MODULE = re.compile(r"(?:`|from |import )(ssd34(?:\.\w+){2,})")


def test_code_that_pages_name_exists():
    roots = (ROOT, ROOT / "src", ROOT / "src" / "ssd34")
    named = 0
    for page in [*PAGES, *ELSEWHERE]:
        text = page.read_text()
        for path in SOURCE.findall(text) + re.findall(r"python ([\w/]+\.py)", text):
            assert any((root / path).is_file() for root in roots), f"{page}: {path}"
            named += 1
        for name in MODULE.findall(text):
            assert exists(name), f"{page}: {name}"
            named += 1
    assert named > 20


def exists(name):
    """Whether the dotted name is a module, or what a module has."""
    module, _, attribute = name.rpartition(".")
    try:
        return bool(importlib.util.find_spec(name))
    except ModuleNotFoundError:
        return hasattr(importlib.import_module(module), attribute)


def test_every_extra_is_on_the_page_about_installing():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "docs" / "install.md").read_text()
    for extra in project["optional-dependencies"].keys() - {"dev"}:
        assert f"`{extra}`" in text, extra


def test_help_of_every_command_has_an_example_that_parses():
    for name, command in every_command():
        if name == "data":
            continue
        [example] = re.findall(r"Example: ssd34 (.+)", command.help)
        assert f"{example} ".startswith(f"{name} "), name
        parse(commands, shlex.split(example))


def test_tables_are_what_was_measured_and_what_the_code_has(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    tables = runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    made, shown = tables["make_tables"]() | generate["make_parts"](), set()
    for page in tables["PAGES"]:
        text = page.read_text()
        message = f"{page}: run python benchmarks/tables.py and python docs/generate.py"
        assert tables["fill"](text, made) == text, message
        shown |= {match[2] for match in tables["MARKED"].finditer(text)}
    assert set(made) == shown
