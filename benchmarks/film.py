"""What a film costs beside the detector: frames a second of processor time.

    python benchmarks/film.py examples/coffee.jpg

The film is a window of 640 x 360 that moves over the picture. Each command runs on a short and on a
long one, and the difference is what frames cost.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tables import keep, print_rows, run_command

from ssd34 import Detector, read_image
from ssd34.video.film import load_av
from ssd34.zoo.names import model_path

WAYS = {
    "film to JSON lines": (),
    "with `--track`": ("--track",),
    "with `--track` and `--save`": ("--track", "--save", "out.mp4"),
}
WIDTH, HEIGHT = 640, 360


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--frames", type=int, default=60, help="of the short film")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = model_path(options.model).absolute()
    frames = make_frames(options.picture, 3 * options.frames)
    alone = options.frames / detect_all(model, frames[: options.frames])
    rows: list[dict[str, object]] = [
        {"way": "the detector alone, frames in memory", "frames/s": alone}
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, some in (("short.mp4", frames[: options.frames]), ("long.mp4", frames)):
            write_film(Path(folder) / name, some)
        for way, words in WAYS.items():
            short, _ = run(folder, model, "short.mp4", *words)
            seconds, memory = run(folder, model, "long.mp4", *words)
            rate = 2 * options.frames / (seconds - short)
            rows.append({"way": way, "frames/s": rate, "most memory, MB": memory})
    for row in rows:
        rate = float(str(row["frames/s"]))
        row |= {"frames/s": round(rate, 1), "of the detector": f"{rate / alone:.0%}"}
    print_rows(rows, title="one thread, processor time")
    keep(options.json, rows, models=[options.model])


def make_frames(picture: Path, count: int) -> list[np.ndarray]:
    """So many frames, (360, 640, 3) uint8."""
    large = Image.fromarray(read_image(picture)).resize((2 * WIDTH, 2 * HEIGHT))
    places = [(4 * k % WIDTH, 2 * k % HEIGHT) for k in range(count)]
    return [np.asarray(large.crop((x, y, x + WIDTH, y + HEIGHT))) for x, y in places]


def detect_all(model: Path, frames: list[np.ndarray]) -> float:
    """Seconds of processor time of the detector."""
    detector = Detector.load(model, threads=1)
    detector.detect(frames[0])
    started = time.process_time()
    for frame in frames:
        detector.detect(frame)
    return time.process_time() - started


def write_film(path: Path, frames: list[np.ndarray]) -> None:
    """In H.264, 25 frames a second."""
    av = load_av()
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())


def run(folder: str, model: Path, film: str, *words: str) -> tuple[float, int]:
    """Seconds of processor time and MB of a command."""
    options = ("--model", model, "--threads", "1", "--output", "found.jsonl")
    used = run_command("detect", film, *options, *words, cwd=folder, stderr=subprocess.DEVNULL)
    return used.processor, used.memory


if __name__ == "__main__":
    main()
