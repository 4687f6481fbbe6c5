"""Collects the page that runs the embedded model in a browser: files for any static web server.

    make .venv/npm/.done
    python docs/try/build.py out/try --serve 8001

``--serve`` shows it to this machine only, with the two headers that let a page use several threads.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import ssd34
from ssd34.core.preprocess import MEAN, STD

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / ".venv" / "npm" / "node_modules" / "onnxruntime-web"
PROGRAM = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""All that is needed of the package."""
BACK = '<p><a href="../index.html">The documentation of ssd34</a></p>\n'
"""Where the page is a part of a site."""


def build(folder: Path) -> None:
    """Write the page into a folder; FileNotFoundError where the npm package is missing."""
    detector = ssd34.load("default")
    model = detector.session.path
    (folder / "onnxruntime").mkdir(parents=True, exist_ok=True)
    for name in PROGRAM:
        shutil.copy(PACKAGE / "dist" / name, folder / "onnxruntime")
    # The package itself has neither; the same source makes the one for Python.
    for name in ("LICENSE", "ThirdPartyNotices.txt"):
        shutil.copy(str(resources.files("onnxruntime") / name), folder / "onnxruntime")
    shutil.copy(model, folder)
    for name in ("detect.js", "resize.js", "worker.js"):
        shutil.copy(HERE / name, folder)
    shared = Path(str(resources.files("ssd34.serve") / "page"))
    for name in ("page.js", "page.css"):
        shutil.copy(shared / name, folder)
    shutil.copytree(shared / "examples", folder / "examples", dirs_exist_ok=True)

    sizes = {
        name: (folder / name).stat().st_size for name in (model.name, f"onnxruntime/{PROGRAM[1]}")
    }
    model_part, wasm_part = ({"file": name, "bytes": size} for name, size in sizes.items())
    about = {
        "name": model.stem, "labels": detector.labels.names, "side": detector.spec.image_size,
        "mean": MEAN, "std": STD, "model": model_part, "wasm": wasm_part,
    }  # fmt: skip
    served = (shared / "index.html").read_text("utf-8")
    site = folder.parent / "index.html"
    _, _, sections = served.partition("docs/try has the same. -->\n")
    fields = {
        "<!-- sections -->\n": sections.partition("</main>")[0],
        "<!-- site -->\n": BACK if site.is_file() else "",
        "{megabytes}": str(round(sum(sizes.values()) / 1e6)),
        "{about}": json.dumps(about),
        "{version}": json.loads((PACKAGE / "package.json").read_text())["version"],
    }
    page = (HERE / "index.html").read_text("utf-8")
    for field, text in fields.items():
        page = page.replace(field, text)
    (folder / "index.html").write_text(page, "utf-8")


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder."""

    def end_headers(self) -> None:
        """With what lets a page use threads."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


def main() -> None:
    """Build and serve."""
    parser = argparse.ArgumentParser(description="The page that detects in the browser.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--serve", type=int, metavar="PORT")
    options = parser.parse_args()
    if not PACKAGE.is_dir():
        sys.exit("error: onnxruntime-web is not there; run: make .venv/npm/.done")
    build(options.folder)
    if options.serve is None:
        return
    handler = partial(Handler, directory=str(options.folder))
    with ThreadingHTTPServer(("127.0.0.1", options.serve), handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
