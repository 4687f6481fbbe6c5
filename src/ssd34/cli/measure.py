"""``ssd34 evaluate MODEL``: run it over the pictures, keep what was done, score, write."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd34.cli.console import errors, progress_bar, warn
from ssd34.cli.datasets import warn_of_unknown_classes
from ssd34.cli.engine import say_choice
from ssd34.cli.scores import print_comparison, print_score, print_scores
from ssd34.cli.scoring import compared, scored
from ssd34.core.counted import counted
from ssd34.core.postprocess import POLICIES, Policy, named_policy
from ssd34.core.preprocess import BOTH, PREPROCESSINGS
from ssd34.data.atomic import is_special
from ssd34.data.checksum import sha256_of
from ssd34.data.dataset import Dataset
from ssd34.data.fingerprint import fingerprint
from ssd34.errors import ModelError, OptionError, require
from ssd34.evaluate.coco_metrics import categories_of
from ssd34.evaluate.evaluator import Found, Stages, detect_all, side_by_side, stages_of
from ssd34.evaluate.partial import Partial, engine_of, partial_file, partial_path
from ssd34.evaluate.results import Results
from ssd34.evaluate.results_json import write_results
from ssd34.evaluate.score import ScoreOptions
from ssd34.runtime.detector import Detector, model_path
from ssd34.runtime.engine import AUTO
from ssd34.runtime.engine_choice import int8_way
from ssd34.runtime.session import Session
from ssd34.version import __version__

if TYPE_CHECKING:
    from ssd34.cli.report import ReportJob

DEFAULT_POLICY = "zoo"
ALL = "all"
OWN_TAIL = "the file's own tail"


@dataclass(frozen=True)
class Outputs:
    """What is to be written.

    Attributes:
        files: all of them; the partial file lies beside the first that is no device or pipe.
        emit: takes the JSON-ready numbers.
        detections: where the detections go.
        report: what tells of them.
    """

    files: tuple[Path, ...]
    emit: Callable[[dict[str, Any]], None]
    detections: Path | None
    report: ReportJob | None = None


def measure(
    model: str,
    dataset: Dataset,
    options: ScoreOptions,
    *,
    policy: str | None,
    preprocessing: str,
    threads: int | None,
    engine: str,
    resume: bool,
    outputs: Outputs,
) -> int:
    """Measure a model and print it.

    Args:
        model: path or name.
        dataset: the pictures.
        options: how to score.
        policy: a name or ``all``, for which a file's own tail is cut off; None: its own way.
        preprocessing: a name, or ``both``.
        threads: None: what this process may use.
        engine: name, or ``auto``.
        resume: go on with the partial file.
        outputs: what to write.

    Returns:
        How many pictures could not be read.
    """
    if policy == ALL and outputs.detections:
        raise OptionError(
            "--detections: a file holds the detections of one policy; name one instead of "
            "--policy all, or leave --detections out"
        )
    if policy == ALL and outputs.report:
        raise OptionError("--report: tells of one policy; name one instead of --policy all")
    if preprocessing == BOTH and (policy == ALL or outputs.detections or outputs.report):
        raise OptionError(
            "--preprocess both: compares the two under one policy and writes neither detections "
            "nor a report; leave --policy all, --detections and --report out"
        )
    beside = next((file for file in outputs.files if not is_special(file)), None)
    if resume and beside and engine == AUTO:
        # Measured again, the other one might be the faster.
        engine = engine_of(partial_path(beside)) or engine
    path = model_path(model)
    session, tail_cut = _load(path, threads=threads, engine=engine, raw=policy is not None)
    detector = Detector(session)
    say_choice(session)
    policies = _policies(session, policy)
    warn_of_unknown_classes(dataset, detector.labels)
    categories_of(detector.labels, dataset)  # before a partial file is there
    identity: dict[str, Any] = {
        "model_sha256": sha256_of(path),
        "data_sha256": fingerprint(dataset),
        "preprocess": preprocessing,
        "policies": [dataclasses.asdict(p) for p in policies] or OWN_TAIL,
        "ssd34": __version__,
        "engine": detector.session.engine.name,
        "engine_version": detector.session.engine.version,
    }
    names = [p.name for p in policies] or [OWN_TAIL]
    if preprocessing == BOTH:
        names = list(PREPROCESSINGS)
    every: list[Found] = []
    with ExitStack() as stack:
        partial = None
        if beside:
            partial = stack.enter_context(
                partial_file(partial_path(beside), identity, dataset, resume=resume)
            )
        stack.enter_context(_telling_what_is_kept(partial, every, total=len(dataset)))
        _detect(detector, _stages(detector, policies, preprocessing), dataset, partial, every)
        results = [
            Results.joined(found.results[k] for found in every if found.results)
            for k in range(len(names))
        ]
        scores = {
            name: scored(dataset, found, options)
            for name, found in zip(names, results, strict=True)
        }
        failed = sum(found.problem is not None for found in every)
        about = {
            "model": model,
            "model_sha256": identity["model_sha256"],
            "engine": identity["engine"],
            "unreadable": failed,
            "preprocess": preprocessing,
            "tail_cut": tail_cut,
            "int8": int8_way(path, session.engine),
        }
        title = f"{model} on {dataset.name}: {counted(len(dataset), 'picture')}"
        if policy == ALL:
            print_scores(scores, title=title)
            outputs.emit({**about, "policies": {n: s.to_dict() for n, s in scores.items()}})
        elif preprocessing == BOTH:
            print_scores(scores, title=title)
            values = {name: score.to_dict() for name, score in scores.items()}
            change = compared(dataset, (results[0], results[1]), options)
            print_comparison(change, title=f"{title}, by preprocessing", names=PREPROCESSINGS)
            values["difference"] = change.to_dict()
            outputs.emit({**about, "preprocessings": values})
        else:
            print_score(scores[names[0]], title=f"{title}, {names[0]}")
            outputs.emit({**about, "policy": names[0], **scores[names[0]].to_dict()})
        if outputs.detections:
            write_results(outputs.detections, results[0])
        if outputs.report:
            outputs.report.write(
                results[0],
                scores[names[0]],
                subject=Path(model).name,
                about={**about, "policy": names[0]},
                threads=detector.session.threads,
            )
    if failed:
        warn(
            f"{failed} of {counted(len(dataset), 'picture')} could not be read and "
            f"{'counts' if failed == 1 else 'count'} as empty"
        )
    return failed


@contextmanager
def _telling_what_is_kept(
    partial: Partial | None, every: Sequence[Found], *, total: int
) -> Iterator[None]:
    """On an interruption, until the last output is written, say how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        kept = (
            f"kept in {partial.path}; go on with --resume"
            if partial
            else "not kept, as no --json, --detections or --report names a file"
        )
        message = f"{len(every)} of {total} pictures done, {kept}"
        errors.print(message, markup=False, soft_wrap=True)
        raise


def _policies(session: Session, policy: str | None) -> list[Policy]:
    """Those asked for; none: the file picks itself."""
    if policy == ALL:
        return list(POLICIES.values())
    return [named_policy(policy or DEFAULT_POLICY)] if session.raw else []


def _load(path: Path, *, threads: int | None, engine: str, raw: bool) -> tuple[Session, bool]:
    """A file, with `raw` without its tail; and whether one had to be cut off."""
    session = Session(path, threads=threads, engine=engine)
    if session.raw or not raw:
        return session, False
    require("onnx", extra="export", why="--policy with a file that picks detections itself")
    import onnx

    from ssd34.deploy.cut import without_tail
    from ssd34.deploy.graph import save_model

    try:
        network = without_tail(onnx.load(path))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        save_model(network, file)
        return Session(file, threads=threads, engine=engine), True


def _stages(detector: Detector, policies: Sequence[Policy], preprocessing: str) -> Stages:
    wanted = PREPROCESSINGS if preprocessing == BOTH else (preprocessing,)
    ways = [
        stages_of(Detector(detector.session, preprocessing=name), policies or None)
        for name in wanted
    ]
    return ways[0] if len(ways) == 1 else side_by_side(ways)


def _detect(
    detector: Detector,
    stages: Stages,
    dataset: Dataset,
    partial: Partial | None,
    every: list[Found],
) -> None:
    """Append what is found in every picture; those in the partial file are not looked at."""
    every += partial.found if partial else ()
    for found in every:
        if found.problem:
            warn(str(found.problem))
    with progress_bar() as bar:
        task = bar.add_task("evaluating", total=len(dataset), completed=len(every))
        for found in detect_all(
            stages,
            dataset,
            detector.labels,
            batch_size=detector.session.batch or 1,
            start=len(every),
        ):
            if partial:
                partial.keep(found)
            every.append(found)
            if found.problem:
                warn(str(found.problem))
            bar.update(task, completed=len(every))
