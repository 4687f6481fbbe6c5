"""``ssd34 export``."""

from __future__ import annotations

from pathlib import Path

import click

from ssd34.cli.console import MODEL, emit_json, json_flag
from ssd34.core.postprocess import POLICIES, named_policy
from ssd34.errors import OptionError, require

IN_GRAPH = [name for name, policy in POLICIES.items() if policy.in_graph]


@click.command(short_help="Write a checkpoint as an ONNX file.")
@click.argument("model", type=MODEL)
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT.onnx")
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
@click.option(
    "--score", "score_threshold", type=click.FloatRange(0, 1), help="Score threshold in the file."
)
@click.option(
    "--iou",
    "iou_threshold",
    type=click.FloatRange(0, 1),
    help="IoU threshold of the NMS in the file.",
)
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
    from ssd34.deploy.graph.export import ExportOptions
    from ssd34.workflows.export import export as write

    given = {name: value for name, value in changes.items() if value is not None}
    if tail == "none" and (given or policy_name != "zoo"):
        raise OptionError("--tail none: the file has no policy to change; leave those options out")
    policy = None if tail == "none" else named_policy(policy_name).replace(**given)
    options = ExportOptions(
        opset=_opset(opset),
        policy=policy,
        batch=_batch(batch, default=None if policy is None else 1),
        image_input=image_input,
        weight_format=weight_format,
    )
    written = write(model, output, options)
    if as_json:
        emit_json({
            "file": str(output), "bytes": output.stat().st_size, "opset": options.opset,
            "weights": weight_format, "outputs": list(written.outputs),
        })  # fmt: skip
        return
    click.echo(
        f"{output}: {output.stat().st_size / 1e6:.1f} MB, opset {options.opset}, "
        f"weights {weight_format}, outputs {', '.join(written.outputs)}"
    )


def _opset(text: str) -> int:
    from ssd34.deploy.graph.builder import find_newest_opset

    if text == "newest":
        return find_newest_opset()
    if not text.isdecimal():
        raise OptionError(f"--opset {text}: expected a number or 'newest'")
    return int(text)


def _batch(text: str | None, *, default: int | None) -> int | None:
    if text is None:
        return default
    if text == "dynamic":
        return None
    if not text.isdecimal():
        raise OptionError(f"--batch {text}: expected a number or 'dynamic'")
    return int(text)
