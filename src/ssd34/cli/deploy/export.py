"""``ssd34 export`` and ``convert``."""

from __future__ import annotations

from pathlib import Path

import click

from ssd34.cli.console import FILE, MODEL, NEW_FILE, SHARE, emit_json, json_flag, warn
from ssd34.core.postprocess import POLICIES, named_policy
from ssd34.core.spec import SPECS, named_spec
from ssd34.errors import CheckpointError, OptionError, require
from ssd34.text import counted
from ssd34.workflows.outputs import check_outputs

IN_GRAPH = [name for name, policy in POLICIES.items() if policy.in_graph]


@click.command(short_help="Write a checkpoint as an ONNX file.")
@click.argument("model", type=MODEL)
@click.argument("output", type=NEW_FILE, metavar="OUT.onnx")
@click.option(
    "--opset", default="12", metavar="N|newest",
    help="Version of the ONNX operators, 10 or later. newest: the newest for this ONNX Runtime.",
)  # fmt: skip
@click.option(
    "--tail", type=click.Choice(["nms", "none"]), default="nms",
    help="NMS in the file. nms: it ends at detections, as the published files. none: it ends at "
    "raw loc and conf.",
)  # fmt: skip
@click.option(
    "--policy", "policy_name", type=click.Choice(IN_GRAPH), default="zoo",
    help="NMS policy of the file; the next three options change its values. ONNX cannot express "
    "the mlperf policies: --tail none leaves the choice to detect and evaluate.",
)  # fmt: skip
@click.option("--score", "score_threshold", type=SHARE, help="Score threshold in the file.")
@click.option(
    "--iou", "iou_threshold", type=SHARE,
    help="IoU threshold of the NMS in the file.",
)  # fmt: skip
@click.option("--max-detections", type=click.IntRange(1), help="Most detections in a picture.")
@click.option(
    "--batch", metavar="N|dynamic", help="Pictures at once. [default: 1; dynamic for --tail none]"
)
@click.option(
    "--input", "image_input", type=click.Choice(["float32", "uint8"]), default="float32",
    help="float32: normalised (N, 3, S, S), as published. uint8: RGB bytes (N, S, S, 3).",
)  # fmt: skip
@click.option(
    "--weights", "weight_format", type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    help="How weights are stored. The arithmetic is always float32.",
)  # fmt: skip
@json_flag
def export(
    *,
    model: str,
    output: Path,
    opset: str,
    tail: str,
    policy_name: str,
    batch: str | None,
    image_input: str,
    weight_format: str,
    as_json: bool,
    **changes: float | None,
) -> None:
    """Write a checkpoint as an ONNX file that ssd34 detect and any ONNX runtime can run.

    MODEL is a checkpoint (.safetensors), a float ONNX file of this family or the name of a model,
    such as default-float.

    Example: ssd34 export runs/mine/best.safetensors mine.onnx
    """
    require("onnx", extra="export", why="export")
    from ssd34.deploy.graph.builder import find_newest_opset
    from ssd34.deploy.graph.export import ExportOptions
    from ssd34.workflows.export import export as write

    given = {name: value for name, value in changes.items() if value is not None}
    if tail == "none" and (given or policy_name != "zoo"):
        raise OptionError("--tail none: the file has no policy to change; leave those options out")
    policy = None if tail == "none" else named_policy(policy_name).replace(**given)
    if batch is None:
        batch = "dynamic" if policy is None else "1"
    wanted = _number_or("newest", "--opset", opset)
    options = ExportOptions(
        opset=find_newest_opset() if wanted is None else wanted,
        policy=policy,
        batch=_number_or("dynamic", "--batch", batch),
        image_input=image_input,
        weight_format=weight_format,
    )
    written = write(model, output, options)
    size = output.stat().st_size
    if as_json:
        emit_json({
            "file": str(output), "bytes": size, "opset": options.opset,
            "weights": weight_format, "outputs": list(written.outputs),
        })  # fmt: skip
    else:
        click.echo(
            f"{output}: {size / 1e6:.1f} MB, opset {options.opset}, weights {weight_format}, "
            f"outputs {', '.join(written.outputs)}"
        )


def _number_or(word: str, option: str, text: str) -> int | None:
    """A number; None: the word that may stand for one."""
    if text != word and not text.isdecimal():
        raise OptionError(f"{option} {text}: expected a number or {word!r}")
    return None if text == word else int(text)


@click.command(short_help="Turn a benchmark checkpoint into one of ours.")
@click.argument("source", type=FILE, metavar="FILE.pth")
@click.argument("output", type=FILE, metavar="OUT.safetensors")
@click.option(
    "--spec", "spec_name", type=click.Choice(list(SPECS)),
    help="The network of the file: the weights of the 300 and 1200 pixel networks have the same "
    "shapes. [default: ssd1200, on the file's backbone]",
)  # fmt: skip
@json_flag
def convert(*, source: Path, output: Path, spec_name: str | None, as_json: bool) -> None:
    """Turn a checkpoint of the SSD training or inference benchmark (.pth, .pytorch) into a
    checkpoint of ours.

    The file is a pickle: only tensors are read from it, and anything else is refused.

    Example: ssd34 convert resnet34-ssd1200.pth ssd1200.safetensors
    """
    require("torch", extra="train", why="reading a .pth file")
    from ssd34.core.labels import COCO_LABELS, LabelSet
    from ssd34.files.checkpoint import Checkpoint, is_named_checkpoint
    from ssd34.network.pretrained import convert_benchmark_weights, read_torch_file
    from ssd34.network.ssd import SSD, load_weights

    if not is_named_checkpoint(output):
        raise OptionError(f"{output}: expected a name that ends in .safetensors")
    check_outputs((output,), files=(source,))
    wanted = named_spec(spec_name) if spec_name else None
    spec, weights = convert_benchmark_weights(
        read_torch_file(source), source=str(source), spec=wanted
    )
    try:
        load_weights(SSD(spec), weights, source=str(source))
    except CheckpointError as error:
        raise CheckpointError(f"{error}; name the file's own network with --spec") from None
    if spec.num_classes == len(COCO_LABELS):
        labels = COCO_LABELS
    else:
        labels = LabelSet.from_names(f"class {k}" for k in range(1, spec.num_classes + 1))
    notes = {"converted_from": source.name}
    Checkpoint(spec=spec, labels=labels, weights=weights, state={"notes": notes}).save(output)
    if as_json:
        values = {"file": str(output), "spec": spec.name, "assumed": wanted is None}
        emit_json({**values, "classes": list(labels.names), "arrays": len(weights)})
    else:
        click.echo(f"{output}: {spec.name}, {counted(len(labels), 'class')}, {len(weights)} arrays")
    if wanted is None:
        small = spec.name.replace("ssd1200", "ssd300")
        warn(
            f"assumed {spec.name}: a file does not tell its input size; for the other network "
            f"give --spec {small}"
        )
