"""The embedded model's numbers: measured, and kept in a file for README, card and docs.

    python benchmarks/embedded.py --data coco-val.zip --proof proof.zip
    python benchmarks/tables.py

It writes docs/measured/embedded.json, from which `tables.py` writes the tables. A test compares
the file with the models that are shipped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tables import MEASURED, ROOT, describe_machine, keep, row

from ssd34.core.labels import COCO_LABELS
from ssd34.datasets.voc import COCO_NAMES
from ssd34.datasets.voc import NAMES as VOC_NAMES
from ssd34.zoo.names import EMBEDDED, model_path

FILE = MEASURED / "embedded.json"


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description="The embedded model's numbers.")
    parser.add_argument("--data", required=True, help="the data set to measure AP on")
    parser.add_argument("--proof", help="the pictures that the int8 file was accepted on")
    parser.add_argument("--json", type=Path, default=FILE, help="where the numbers are kept")
    parser.add_argument("--rounds", default="40", help="of the benchmark")
    options = parser.parse_args()
    values = measure(options.data, options.proof, options.rounds)
    keep(
        options.json,
        [],
        models=EMBEDDED,
        data=filter(None, (options.data, options.proof)),
        **values,
    )


def measure(data: str, proof: str | None, rounds: str) -> dict[str, Any]:
    """Run the commands and keep what the tables need."""
    voc = [COCO_NAMES.get(name, name) for name in VOC_NAMES]
    assert set(voc) <= set(COCO_LABELS.names)
    only = [word for name in voc for word in ("--class", name)]
    bytes_of = {name: {"bytes": model_path(name).stat().st_size} for name in EMBEDDED}
    found: dict[str, Any] = {"by_model": bytes_of}
    with tempfile.TemporaryDirectory() as folder:
        # The network runs once over the pictures; everything else is scored from what it found.
        files = detect_all(data, folder)
        for name, file in files.items():
            for kind, classes in (("all", []), ("voc", only)):
                given = run("evaluate", "--data", data, "--detections", str(file), *classes)
                kept = ("data_sha256", "pictures", "summary", "precision_at")
                scored = {key: given[key] for key in kept}
                scored["interval"] = given["intervals"]["summary"]["AP"]
                found["by_model"][name][kind] = scored
        found["int8_less_float"] = {Path(data).name: compare(data, files)}
    if proof is not None:
        with tempfile.TemporaryDirectory() as folder:
            difference = compare(proof, detect_all(proof, folder))
        found["int8_less_float"][Path(proof).name] = difference
    timed = run(
        "benchmark", "default-float", "default", "--images", str(ROOT / "examples" / "coffee.jpg"),
        "--threads", "2", "--rounds", rounds,
    )  # fmt: skip
    for result in timed["results"]:
        timings = ("detect_ms", "network_ms", "peak_memory_mb", "speed_up", "engine_version")
        found["by_model"][result["model"]]["speed"] = {key: result[key] for key in timings}
    return found


def detect_all(data: str, folder: str) -> dict[str, Path]:
    """A file of detections of each model on all pictures."""
    files = {name: Path(folder) / f"{name}.json" for name in EMBEDDED}
    for name, file in files.items():
        run("evaluate", name, "--data", data, "--resamples", "0", "--detections", str(file))
    return files


def compare(data: str, files: dict[str, Path]) -> dict[str, Any]:
    """AP of int8 less that of float on the same pictures, with its interval."""
    both = (str(files[name]) for name in ("default-float", "default"))
    given = run("evaluate", "--data", data, "--compare", *both)
    kept: dict[str, Any] = {"pictures": given["pictures"], **given["summary"]["AP"]}
    return kept


def run(*words: str) -> dict[str, Any]:
    """What a command writes as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, "-m", "ssd34", *words, "--json", str(file)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return values


def tables(values: dict[str, Any]) -> dict[str, str]:
    """The text of each table, by its name."""
    int8, in_float = values["by_model"]["default"], values["by_model"]["default-float"]
    machine = describe_machine(values["cpu"])
    screen = [
        "| the embedded model, int8 | |",
        "|---|---|",
        f"| accuracy | AP {int8['all']['summary']['AP']:.3f} on {int8['all']['pictures']} "
        "COCO pictures: modest, made to try things with and to fine-tune from |",
        f"| its scores | of what it says at 0.5 or more, "
        f"{100 * int8['all']['precision_at']['0.5']['precision']:.0f} in 100 are right |",
        f"| speed | {int8['speed']['detect_ms']['median']:.0f} ms a picture on {machine}, "
        f"{int8['speed']['speed_up']['network']['value']:.1f} times as fast as its float file |",
        f"| size | a file of {int8['bytes'] / 1e6:.0f} MB; "
        f"{int8['speed']['peak_memory_mb']} MB of memory |",
    ]
    models = (in_float, int8)
    accuracy = [
        row(
            f"measured on {int8['all']['pictures']} COCO pictures, longest side 288 pixels",
            "`default-float`",
            "`default`",
        ),
        "|---|---|---|",
        *(
            row(f"{key}{only}", *(f"{m[classes]['summary'][key]:.4f}" for m in models))
            for classes, only in (("all", ""), ("voc", ", only the 20 VOC classes"))
            for key in ("AP", "AP50", "AR100")
        ),
        row("AP, 95 % interval over pictures", *map(_interval, models)),
        *(
            row(
                f"AP, int8 less float, on {one['pictures']} pictures",
                "",
                f"{one['difference']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})",
            )
            for one in values["int8_less_float"].values()
        ),
        *(
            row(f"right of what scores {score} or more", *(_right(m, score) for m in models))
            for score in ("0.3", "0.5", "0.7")
        ),
        "",
        f"Measured on {values['date']} by `{values['command']}`.",
    ]
    ratio = int8["speed"]["speed_up"]["network"]
    speed = [
        row(f"one picture, {machine}, two threads", "`default-float`", "`default`"),
        "|---|---|---|",
        *(
            row(title, *(f"{m['speed'][key]['median']:.1f}" for m in models))
            for title, key in (
                ("JPEG to detections, ms", "detect_ms"), ("the bare file, ms", "network_ms")
            )
        ),
        row("memory, MB", *(str(m["speed"]["peak_memory_mb"]) for m in models)),
        row(
            "times as fast, bare file",
            "",
            f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})",
        ),
    ]  # fmt: skip
    made = {"screen": screen, "accuracy": accuracy, "speed": speed, "proof": say_proof()}
    return {name: "\n".join(lines) + "\n" for name, lines in made.items()}


def say_proof() -> list[str]:
    """What `ssd34 quantize` wrote beside the int8 file."""
    file = model_path("default").with_suffix(".json")
    proof = json.loads(file.read_text(encoding="utf-8"))
    subject, trial = proof["subject"], proof["trial"]
    ratio, ranges = trial["speedup"], trial["options"]["ranges"]
    return [
        f"`ssd34 quantize` wrote and accepted it, with the ranges `{ranges}`. Its proof, "
        f"[{file.name}]({file.name}):",
        "",
        row(
            f"{subject['pictures']} annotated pictures, {subject['threads']} threads of an "
            f"{subject['cpu']} ({', '.join(map(str.upper, subject['cpu_features']))})",
            "float",
            "int8",
        ),
        row("---", "---", "---"),
        row("AP", f"{trial['float_ap']:.4f}", f"{trial['ap']:.4f}"),
        row("one picture, ms", f"{trial['float_ms']:.1f}", f"{trial['ms']:.1f}"),
        row(
            "times as fast", "", f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
        ),
        "",
        f"{subject['seen_in_training']} of the pictures are seen in training, so that their AP "
        "means nothing by itself, only the difference does.",
    ]


def _interval(model: dict[str, Any]) -> str:
    low, high = model["all"]["interval"]
    return f"{low:.4f} to {high:.4f}"


def _right(model: dict[str, Any], score: str) -> str:
    found = model["all"]["precision_at"][score]
    return f"{found['precision']:.3f} of {found['detections']}"


if __name__ == "__main__":
    main()
