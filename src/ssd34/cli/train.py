"""``ssd34 train``."""

from __future__ import annotations

import dataclasses
import shlex
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ssd34.cli.console import duration, errors, warn, warn_of_problems
from ssd34.core.labels import COCO_LABELS, LabelSet
from ssd34.core.spec import SPECS, named_spec
from ssd34.data.dataset import Dataset
from ssd34.data.formats import open_dataset
from ssd34.errors import OptionError, TrainingError, require

if TYPE_CHECKING:
    from ssd34.data.checkpoint import Checkpoint
    from ssd34.evaluate.coco_metrics import CocoMetrics
    from ssd34.train.loop import Progress
    from ssd34.train.options import TrainOptions

PRINT_SECONDS = 15


@click.command(short_help="Train a detector on your pictures.")
@click.option(
    "--data", "data", multiple=True, required=True, metavar="PATH[=WEIGHT]",
    help="Pictures to learn from; may be given again. WEIGHT: draws per picture and epoch.",
)  # fmt: skip
@click.option("--val", required=True, metavar="PATH", help="Pictures to measure on.")
@click.option(
    "--spec", "spec_name", default="ssd300-resnet34", type=click.Choice(list(SPECS)),
    help="The network.",
)  # fmt: skip
@click.option(
    "--init", type=click.Path(path_type=Path),
    help="Start from a checkpoint of ours, or from an ImageNet trunk: torchvision's .pth, "
    "safetensors, or a name such as resnet34-b627a593, which is downloaded.",
)  # fmt: skip
@click.option("--output", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--epochs", type=int, help="Length in epochs. [default: 60]")
@click.option("--minutes", type=float, help="Length by the clock, instead.")
@click.option("--resume", is_flag=True, help="Go on where the run in --output stopped.")
@click.option("--batch", "batch_size", type=int, default=16)
@click.option(
    "--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw",
    help="sgd is the published one.",
)  # fmt: skip
@click.option(
    "--lr", "learning_rate", type=float,
    help="Peak learning rate. [default: at batch 16, 3e-4 for adamw, 1.25e-3 for sgd]",
)  # fmt: skip
@click.option("--weight-decay", type=float, help="[default: 0.05 for adamw, 5e-4 for sgd]")
@click.option("--warmup", "warmup_steps", type=int, default=100, help="Steps of warm-up.")
@click.option("--schedule", type=click.Choice(["cosine", "step"]), default="cosine")
@click.option("--ema", "ema_decay", type=float, default=0.999, help="Decay of averaged weights.")
@click.option("--clip", "gradient_clip", type=float, default=10, help="Largest gradient norm.")
@click.option(
    "--precision", type=click.Choice(["auto", "bf16", "fp32"]), default="auto",
    help="auto: bf16 where the processor computes in it.",
)  # fmt: skip
@click.option("--head-norm/--no-head-norm", default=True, help="Batch norm in the extra blocks.")
@click.option(
    "--trunk-statistics", type=click.Choice(["auto", "frozen", "batch"]), default="auto",
    help="Batch norm statistics of the trunk: as they came, or the batch's own. auto: as they "
    "came, if they came with --init.",
)  # fmt: skip
@click.option(
    "--freeze", "frozen_stages", type=int,
    help="First stages of the trunk that do not train: 1 is the stem, 2 with layer1, ... "
    "[default: 1 with --init, else 0]",
)  # fmt: skip
@click.option("--freeze-share", "frozen_share", type=float, default=1.0,
              help="Share of the run in which they do not.")  # fmt: skip
@click.option("--small-size", type=int, help="Train the first part at this input size.")
@click.option("--small-share", type=float, default=0.6, help="How long that part is.")
@click.option("--expand", type=float, default=0.3, help="Share of pictures zoomed out.")
@click.option(
    "--labels", "label_choice", type=click.Choice(["auto", "coco", "data"]), default="auto",
    help="Classes of the head: COCO's 80, or those of the data. auto: COCO's if the data has them "
    "all.",
)  # fmt: skip
@click.option("--workers", type=int, default=1, help="Processes that prepare pictures.")
@click.option("--threads", type=int, help="Threads that compute. [default: what there is]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--seed", type=int, default=34)
@click.pass_context
def train(
    context: click.Context,
    /,
    *,
    data: tuple[str, ...],
    val: str,
    spec_name: str,
    init: Path | None,
    output: Path,
    resume: bool,
    head_norm: bool,
    label_choice: str,
    threads: int | None,
    device: str,
    **settings: Any,
) -> None:
    """Train a detector on your pictures and measure it after every epoch.

    PATH is a COCO, Pascal VOC or YOLO data set, a folder or zip; PATH@SPLIT where it is divided,
    FILE.json@FOLDER where the pictures of a COCO file lie elsewhere. In pictures of a data set
    that labels only some classes the others are left out of the loss.

    Writes last.safetensors, best.safetensors and history.jsonl into --output. Ctrl-C saves and
    stops; --resume goes on with the settings of the run, except those given again.
    """
    torch = require("torch", extra="train", why="training")
    require("hotcoco", extra="evaluate", why="evaluation during training")
    from ssd34.data.checkpoint import read_header
    from ssd34.network.ssd import SSD
    from ssd34.runtime.threads import thread_budget
    from ssd34.train.loader import training_sets
    from ssd34.train.loop import Listener
    from ssd34.train.loop import train as run_training
    from ssd34.train.run import LAST

    last = output / LAST
    if resume and not last.is_file():
        raise TrainingError(f"nothing to resume: {last} does not exist; leave --resume out")
    if last.exists() and not resume:
        raise OptionError(
            f"{output}: already holds a run; add --resume to go on with it, or choose "
            "another folder"
        )
    begun = read_header(last) if resume else None
    chosen = _device(torch, device)
    options = _options(context, settings, chosen, started=init is not None, begun=begun)
    torch.set_num_threads(threads or thread_budget())
    torch.manual_seed(options.seed)

    datasets = [(_opened(path), weight) for path, weight in map(_weighted, data)]
    validation = _opened(val)
    if begun:
        spec, labels = begun.spec, begun.labels
    else:
        labels = _labels(label_choice, [dataset for dataset, _ in datasets])
        spec = named_spec(spec_name).replace(num_classes=len(labels), head_norm=head_norm)
    sources = training_sets(datasets, labels)
    for name in sorted(set(validation.labels.names) - set(labels.names)):
        warn(f"{val}: the class {name!r} is not trained and counts as missed")
    network = SSD(spec)
    start = "resumed" if begun else _start(network, labels, init) if init else "random"

    output.mkdir(parents=True, exist_ok=True)
    pictures = sum(len(source.usable) for source in sources)
    errors.print(
        f"{spec.name}, {len(labels)} classes, start: {start}; {pictures} pictures to learn from, "
        f"{len(validation)} to measure on; {chosen}, {options.precision}, "
        f"{torch.get_num_threads()} threads",
        markup=False,
        soft_wrap=True,
    )
    screen = _Screen()
    stopping = _StopOnSignal()
    with stopping:
        outcome = run_training(
            network,
            labels,
            sources=sources,
            validation=validation,
            options=options,
            output=output,
            resume=resume,
            device=chosen,
            notes=None if begun else {"command": shlex.join(sys.argv[1:]), "start": start},
            listener=Listener(
                progress=screen.progress,
                evaluating=screen.evaluating,
                evaluated=screen.evaluated,
                problem=lambda problem: warn(str(problem)),
                stop=lambda: stopping.asked,
            ),
        )
    if outcome.finished:
        click.echo(f"finished after {outcome.steps} steps, best AP {outcome.best_ap:.4f}")
    else:
        click.echo(f"stopped after {outcome.steps} steps; go on with --resume")
    click.echo(f"weights: {outcome.best if outcome.best.exists() else outcome.last}")
    if not outcome.finished:
        sys.exit(130)


def _options(
    context: click.Context,
    settings: dict[str, Any],
    device: Any,
    *,
    started: bool,
    begun: Checkpoint | None,
) -> TrainOptions:
    """The settings of a new run, or those of the run that goes on with what was given again."""
    from ssd34.train.augment import Augmentation
    from ssd34.train.options import TrainOptions
    from ssd34.train.precision import computes_bf16

    given = {
        name: value
        for name, value in settings.items()
        if begun is None or context.get_parameter_source(name) == ParameterSource.COMMANDLINE
    }
    if begun:
        stored = TrainOptions.from_dict(begun.state["options"])
        if "epochs" in given or "minutes" in given:
            given = {"epochs": None, "minutes": None, **given}
        if "expand" in given:
            given["augmentation"] = dataclasses.replace(
                stored.augmentation, expand=given.pop("expand")
            )
        if given.get("precision") == "auto":
            del given["precision"]
        return dataclasses.replace(stored, **given)
    if given["epochs"] is None and given["minutes"] is None:
        given["epochs"] = 60
    if given["precision"] == "auto":
        given["precision"] = "bf16" if computes_bf16(device) else "fp32"
    if given["trunk_statistics"] == "auto":
        given["trunk_statistics"] = "frozen" if started else "batch"
    if given["frozen_stages"] is None:
        given["frozen_stages"] = 1 if started else 0
    if not given["small_size"]:
        given["small_share"] = 0.0
    return TrainOptions(augmentation=Augmentation(expand=given.pop("expand")), **given)


def _weighted(text: str) -> tuple[str, float]:
    """PATH or PATH=WEIGHT; a path that itself holds '=' is fine."""
    path, separator, weight = text.rpartition("=")
    if not separator or Path(text).exists():
        return text, 1.0
    try:
        value = float(weight)
    except ValueError:
        return text, 1.0
    if value <= 0:
        raise OptionError(f"expected a weight > 0 in --data {text}")
    return path, value


def _opened(path: str) -> Dataset:
    dataset = open_dataset(path)
    warn_of_problems(dataset)
    return dataset


def _labels(choice: str, datasets: list[Dataset]) -> LabelSet:
    names = list(dict.fromkeys(name for dataset in datasets for name in dataset.labels.names))
    if choice == "coco" or (choice == "auto" and set(names) == set(COCO_LABELS.names)):
        return COCO_LABELS
    if len(datasets) == 1:
        return datasets[0].labels
    return LabelSet.from_names(names)


def _start(network: Any, labels: LabelSet, init: Path) -> str:
    """Put first weights in; returns a line on where they came from."""
    from ssd34.data.checkpoint import is_checkpoint, read_checkpoint
    from ssd34.network.pretrained import IMAGENET_TRUNKS, fetch_trunk, read_trunk, start_trunk
    from ssd34.network.ssd import load_weights
    from ssd34.zoo.cache import cache_folder

    if str(init) in IMAGENET_TRUNKS and not init.exists():
        init = fetch_trunk(str(init), cache_folder() / "trunks")
    if is_checkpoint(init):
        checkpoint = read_checkpoint(init)
        if checkpoint.labels.names != labels.names:
            raise OptionError(
                f"{init}: knows {len(checkpoint.labels)} classes "
                f"({checkpoint.labels.preview(3)}), this run has {len(labels)} "
                f"({labels.preview(3)}); the class lists must be equal, else start from an "
                "ImageNet trunk"
            )
        load_weights(network, checkpoint.weights, source=str(init))
        return f"all weights from {init.name}"
    start_trunk(network, read_trunk(init), source=str(init))
    return f"trunk from {init.name}"


def _device(torch: Any, choice: str) -> Any:
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise OptionError("--device cuda: no CUDA device is available here; use --device cpu")
    return torch.device("cuda" if available and choice != "cpu" else "cpu")


class _StopOnSignal:
    """Ctrl-C or SIGTERM asks the loop to stop after its step; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> None:
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class _Screen:
    """A status line where somebody watches, else a line every few seconds."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.printed = 0.0

    def progress(self, now: Progress) -> None:
        if not self.live and time.monotonic() - self.printed < PRINT_SECONDS:
            return
        self.printed = time.monotonic()
        self._show(
            f"{now.share:6.1%}  epoch {now.step / now.batches_per_epoch:.2f}  step {now.step}  "
            f"loss {now.loss:.3f} (box {now.box_loss:.3f}, class {now.class_loss:.3f})  "
            f"lr {now.learning_rate:.2g}  {now.image_size} px  "
            f"{now.images_per_second:.1f} images/s (waiting {now.data_wait:.0%})  "
            f"left {duration(now.remaining)}",
            keep=not self.live,
        )

    def evaluating(self, done: int, total: int) -> None:
        if self.live:
            self._show(f"evaluating {done}/{total}", keep=False)

    def evaluated(self, epoch: int, metrics: CocoMetrics) -> None:
        self._show(f"epoch {epoch}: AP {metrics.ap:.4f}  AP50 {metrics.ap50:.4f}", keep=True)

    def _show(self, text: str, *, keep: bool) -> None:
        if self.live:
            width = errors.width - 1
            sys.stderr.write("\r\x1b[K" + text[:width] + ("\n" if keep else ""))
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()
