"""The site that `make docs` builds: whole, and by itself."""

import runpy
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.support.browser import CHROMIUM, HOW_TO_GET_IT, chromium
from tests.support.page import serving_folder


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built in a copy, so that the tree stays as it is; the build checks links and hosts itself."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("docs", "examples", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name)
    shutil.copytree(ROOT / "src" / "ssd34" / "weights", copy / "src" / "ssd34" / "weights")
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "mkdocs.yml"):
        shutil.copy(ROOT / name, copy)
    (copy / ".venv" / "npm" / "node_modules" / "onnxruntime-web").mkdir(parents=True)
    (copy / "docs" / "try").mkdir(exist_ok=True)
    made = (
        "import pathlib, sys; (f := pathlib.Path(sys.argv[1])).mkdir(); (f / 'index.html').touch()"
    )
    (copy / "docs" / "try" / "build.py").write_text(made)
    script = copy / "docs" / "build_site.py"
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return copy / "out" / "site"


def test_every_page_is_there(site):
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").is_file()
        assert f": {page.name}\n" in nav, f"{page.name} is not in the navigation"
    assert (site / "try" / "index.html").is_file()
    assert "--engine" in (site / "commands.html").read_text()


def test_what_is_wrong_with_a_site_is_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><script src="https://cdn.example/x.js"></script><a href="b.html">b</a>'
        '<a href="#bottom">c</a><a href="#top">d</a><a href="https://elsewhere.example">e</a>'
    )
    (tmp_path / "a.css").write_text("@import url(//fonts.example/a.css);")
    check = runpy.run_path(str(ROOT / "docs" / "build_site.py"))["check_site"]
    wrong = "\n".join(check(tmp_path))
    for fact in ("cdn.example", "b.html", "#bottom", "fonts.example"):
        assert wrong.count(fact) == 1
    assert "#top" not in wrong and "elsewhere" not in wrong


@pytest.mark.skipif(CHROMIUM is None, reason=HOW_TO_GET_IT)
def test_pages_fit_and_ask_nobody_else(site, tmp_path):
    with serving_folder(site) as host:
        for dark, colours in ((False, "default"), (True, "slate")):
            with chromium(tmp_path / colours) as browser:
                for page, width in (("index", 1280), ("commands", 390)):
                    browser.open(f"{host}{page}.html", width=width, dark=dark)
                    assert browser.run("document.documentElement.scrollWidth") <= width
                    assert browser.run("document.body.dataset.mdColorScheme") == colours
                    assert browser.messages == []
                    assert all(one.startswith((host, "data:")) for one in browser.requests)
