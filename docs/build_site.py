"""Build the documentation as a site in out/site: `make docs`. Nothing is fetched.

README, model card, CHANGELOG and CONTRIBUTING are pages, too. Links between files become links
between pages; a link to a file that is no page becomes its text. The page that runs the model in
the browser is made where npm has fetched what it needs (`make .venv/npm/.done`). The build fails
where a page asks another host for anything, or a link leads nowhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
PAGES, SITE = ROOT / "out" / "pages", ROOT / "out" / "site"
TRY = ROOT / "docs" / "try"
NPM = ROOT / ".venv" / "npm" / "node_modules" / "onnxruntime-web"
WITHOUT = (
    "<!doctype html><html lang=en><meta charset=utf-8><title>ssd34</title>"
    "<p>This page is made where npm has fetched what it needs: <code>make .venv/npm/.done</code>, "
    "then <code>make docs</code>."
)
"""In the place of the page that runs the model in the browser."""
ELSEWHERE = {
    ROOT / "README.md": "index.md",
    ROOT / "CHANGELOG.md": "changelog.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "benchmarks" / "README.md": "benchmarks.md",
    ROOT / "examples" / "README.md": "examples.md",
    ROOT / "src" / "ssd34" / "weights" / "README.md": "model-card.md",
}
"""Pages of the site that do not lie in docs/."""

KEPT = {".css", ".jpg", ".md", ".png", ".svg"}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(^( *)```.*?^\2```)", re.MULTILINE | re.DOTALL)


def main() -> None:
    """Gather the pages, build, copy, check."""
    places = gather()
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--clean"]
    subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603
    if has_try():
        subprocess.run([sys.executable, str(TRY / "build.py"), str(SITE / "try")], check=True)  # noqa: S603
    else:
        (SITE / "try").mkdir()
        (SITE / "try" / "index.html").write_text(WITHOUT, encoding="utf-8")
    wrong = check_site(SITE)
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"{len(places)} pages in {SITE.relative_to(ROOT)}; open {SITE / 'index.html'}")


def gather() -> dict[Path, Path]:
    """The pages as the generator takes them, in out/pages: from file to page."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.rmtree(SITE, ignore_errors=True)
    docs = ROOT / "docs"
    files = [f for f in sorted(docs.rglob("*")) if f.suffix in KEPT and not f.is_relative_to(TRY)]
    places = {file: PAGES / file.relative_to(docs) for file in files}
    places |= {file: PAGES / name for file, name in ELSEWHERE.items()}
    for file, place in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".md":
            place.write_text(rewrite(file, places), encoding="utf-8")
        else:
            shutil.copyfile(file, place)
    decisions = PAGES / "decisions"
    listed = [f"- [{title_of(page)}]({page.name})" for page in sorted(decisions.glob("0*.md"))]
    index = "# Decisions\n\nWhat was decided and rejected, and why.\n\n" + "\n".join(listed) + "\n"
    (decisions / "index.md").write_text(index, encoding="utf-8")
    return places


def has_try() -> bool:
    """Whether the page that runs the model in the browser can be made."""
    return (TRY / "build.py").is_file() and NPM.is_dir()


def title_of(page: Path) -> str:
    """Its first heading."""
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def rewrite(file: Path, places: dict[Path, Path]) -> str:
    """A file's text with its links as they are between the pages; code stays."""

    def follow(link: re.Match[str]) -> str:
        picture, text, target = link.groups()
        if urlsplit(target).scheme or target.startswith("#"):
            return link[0]
        path, hash_, anchor = target.partition("#")
        to = (file.parent / path).resolve()
        if to == ROOT / "docs" / "decisions":
            to_page = PAGES / "decisions" / "index.md"
        elif to == TRY:
            to_page = PAGES / "try" / "index.html"
        elif to in places:
            to_page = places[to]
        else:
            return text
        inside = os.path.relpath(to_page, places[file].parent)
        return f"{picture}[{text}]({inside}{hash_}{anchor})"

    done, text = [], file.read_text(encoding="utf-8")
    end = 0
    for fence in FENCE.finditer(text):
        done += [LINK.sub(follow, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*done, LINK.sub(follow, text[end:])])


class _Page(HTMLParser):
    """What a page asks for, where its links lead, and what can be linked to in it."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value for key, value in attrs if value}
        if "id" in values:
            self.names.add(values["id"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(values.get("href", ""))
        else:
            self.loads += [values[key] for key in ("src", "srcset", "poster") if key in values]


def check_site(site: Path) -> list[str]:
    """What is wrong: files of other hosts, and links or files that are not there."""
    pages = {}
    for file in sorted(site.rglob("*.html")):
        pages[file] = _Page()
        pages[file].feed(file.read_text(encoding="utf-8"))
    wrong = []
    for file, page in pages.items():
        name = file.relative_to(site)
        wrong += [f"{name}: from another host: {one}" for one in page.loads if "//" in one]
        for target in (*page.links, *page.loads):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or name.name == "404.html":
                continue
            to = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            to = to / "index.html" if to.is_dir() else to
            if not to.is_file():
                wrong.append(f"{name}: leads nowhere: {target}")
            elif parts.fragment and to in pages and unquote(parts.fragment) not in pages[to].names:
                wrong.append(f"{name}: no such heading: {target}")
    for style in site.rglob("*.css"):
        hosts = re.findall(
            r"(?:url\(|@import )[\"']?(?:https?:)?//[^)\"']+", style.read_text("utf-8")
        )
        wrong += [f"{style.relative_to(site)}: from another host: {one}" for one in hosts]
    return wrong


if __name__ == "__main__":
    main()
