"""A model to numbers on annotated pictures: what ``evaluate`` does."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd34.core.postprocess import POLICIES, ZOO, Policy, named_policy
from ssd34.core.preprocess import CARD
from ssd34.datasets.dataset import Dataset
from ssd34.datasets.open import open_dataset
from ssd34.errors import ModelError, OptionError, require
from ssd34.evaluate.evaluator import Found, detect_all, stage_detector
from ssd34.evaluate.metrics import describe_unknown_classes, match_categories
from ssd34.evaluate.partial import Partial, locate_partial, open_partial, read_engine
from ssd34.evaluate.results import Results, write_results
from ssd34.files.atomic import compute_sha256, is_special
from ssd34.runtime.detector import Detector
from ssd34.runtime.engine import AUTO, DEFAULT_ENGINE
from ssd34.runtime.engine_choice import find_int8_way
from ssd34.runtime.session import Session
from ssd34.text import counted
from ssd34.version import __version__
from ssd34.workflows import scoring
from ssd34.workflows.outputs import check_kinds
from ssd34.workflows.scoring import SILENT, EvaluateListener, Evaluation, ScoringOptions
from ssd34.zoo.names import model_path

ALL = "all"
OWN_TAIL = "the file's own tail"


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ScoringOptions):
    """How a model is evaluated.

    Attributes:
        policy: a name, or ``all`` for every one side by side; a file's own tail is cut off for
            it. None: the file's own way, zoo where it has none.
        preprocessing: ``card`` or ``fast``.
        threads: None: what this process may use.
        engine: name, or ``auto``.
        detections: takes what is found, as COCO results.
        overwrite: whether `detections` may be replaced.
        resume: continue what an interrupted evaluation left beside the first output file.
    """

    policy: str | None = None
    preprocessing: str = CARD
    threads: int | None = None
    engine: str = DEFAULT_ENGINE
    detections: Path | None = None
    overwrite: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        files = [file for file in (self.json_file, self.detections) if file]
        if self.resume and not self.report and all(map(is_special, files)):
            raise OptionError("--resume: goes on beside an output file; give the same --json FILE")
        if self.overwrite and not self.detections:
            raise OptionError(
                "--overwrite: lets --detections replace a file; give --detections FILE"
            )
        if self.policy == ALL and self.detections:
            raise OptionError(
                "--detections: a file holds the detections of one policy; name one instead of "
                "--policy all, or leave --detections out"
            )
        if self.policy == ALL and self.report:
            raise OptionError("--report: tells of one policy; name one instead of --policy all")


def evaluate(
    model: str | Path = "default",
    data: str | Path = "",
    options: EvaluateOptions | None = None,
    *,
    listener: EvaluateListener = SILENT,
) -> Evaluation:
    """Measure a model on annotated pictures with COCO's box metrics.

    Args:
        model: path of an ONNX file, or a name.
        data: path of a data set.
        options: how; None: as the defaults say.
        listener: hears of progress and warnings.

    Raises:
        DatasetError: the data cannot be used, or have no class in common with the model.
        ModelError: no such model, or not a detector.
        OptionError: options that do not go together, or a file that cannot be written.
        MissingExtraError: an optional library is not installed.
    """
    options = options or EvaluateOptions()
    require("hotcoco", extra="evaluate", why="evaluation")
    check_kinds(models=(str(model),), data=(data,))
    everything = open_dataset(data)
    outputs = scoring.check_scoring_outputs(
        options, everything, models=(str(model),), data=data, detections=options.detections
    )
    replaces = options.detections is not None and options.detections.is_file()
    if replaces and not (options.resume or options.overwrite):
        raise OptionError(
            f"--detections {options.detections}: with MODEL expected a new file to write, got one "
            "that exists; leave MODEL out to score it, or give --overwrite to replace it"
        )
    listener.dataset_opened(everything)
    everything, dataset = scoring.choose_data(everything, options)
    about_data = scoring.describe_data(data, dataset, options)
    beside = next((file for file in outputs if not is_special(file)), None)
    engine = options.engine
    if options.resume and beside and engine == AUTO:
        # Measured again, the other one might be the faster.
        engine = read_engine(locate_partial(beside)) or engine
    path = model_path(model)
    session, tail_cut = _load(
        path, threads=options.threads, engine=engine, raw=options.policy is not None
    )
    detector = Detector(session, preprocessing=options.preprocessing)
    if session.choice:
        listener.engine_chosen(session.choice.reason)
    policies = _policies(session, options.policy)
    unknown = describe_unknown_classes(detector.labels, dataset)
    if unknown:
        listener.warned(unknown)
    match_categories(detector.labels, dataset)  # before a partial file is there
    identity: dict[str, Any] = {
        "model_sha256": compute_sha256(path),
        "data_sha256": about_data["data_sha256"],
        "preprocess": options.preprocessing,
        "policies": [dataclasses.asdict(p) for p in policies] or OWN_TAIL,
        "ssd34": __version__,
        "engine": session.engine.name,
        "engine_version": session.engine.version,
    }
    names = [p.name for p in policies] or [OWN_TAIL]
    every: list[Found] = []
    with ExitStack() as stack:
        partial = None
        if options.report:
            options.report.mkdir(parents=True, exist_ok=True)
        if beside:
            partial = stack.enter_context(
                open_partial(locate_partial(beside), identity, dataset, resume=options.resume)
            )
        kept = partial.path if partial else None
        stack.enter_context(
            scoring.telling_what_is_kept(listener, lambda: len(every), len(dataset), kept)
        )
        _detect(detector, policies, dataset, partial, every, listener)
        results = [
            Results.joined(found.results[k] for found in every if found.results)
            for k in range(len(names))
        ]
        scores = {
            name: scoring.score_results(dataset, found, options, listener)
            for name, found in zip(names, results, strict=True)
        }
        unreadable = sum(found.problem is not None for found in every)
        about = {
            "model": str(model),
            "model_sha256": identity["model_sha256"],
            "engine": identity["engine"],
            "unreadable": unreadable,
            "preprocess": options.preprocessing,
            "tail_cut": tail_cut,
            "int8": find_int8_way(path, session.engine),
        }
        title = f"{model} on {dataset.name}: {counted(len(dataset), 'picture')}"
        if options.policy == ALL:
            numbers: dict[str, Any] = {"policies": {n: s.to_dict() for n, s in scores.items()}}
        else:
            how = f"NMS policy {names[0]}" if policies else "with the NMS in the file"
            title = f"{title}, {how}"
            numbers = {"policy": names[0], **scores[names[0]].to_dict()}
        values = {**about_data, **about, **numbers}
        scoring.write_numbers(options, values)
        if options.detections:
            write_results(options.detections, results[0])
        page = scoring.report_results(
            options, about_data, dataset, results[0], scores[names[0]],
            subject=Path(model).name, about={**about, "policy": names[0]},
            threads=session.threads, listener=listener,
        )  # fmt: skip
    if unreadable:
        listener.warned(
            f"{unreadable} of {counted(len(dataset), 'picture')} could not be read and "
            f"{'counts' if unreadable == 1 else 'count'} as empty"
        )
    return Evaluation(title, scores, results[0], unreadable, len(dataset.problems), values, page)


def _policies(session: Session, policy: str | None) -> list[Policy]:
    """Those asked for; none: the file picks itself."""
    if policy == ALL:
        return list(POLICIES.values())
    return [named_policy(policy) if policy else ZOO] if session.raw else []


def _load(path: Path, *, threads: int | None, engine: str, raw: bool) -> tuple[Session, bool]:
    """A file, with `raw` without its tail; and whether one had to be cut off."""
    session = Session(path, threads=threads, engine=engine)
    if session.raw or not raw:
        return session, False
    require("onnx", extra="export", why="--policy with a file that picks detections itself")
    from ssd34.deploy.graph.onnx_file import read_model
    from ssd34.deploy.graph.tail import cut_tail

    model = read_model(path)
    try:
        network = cut_tail(model)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        file.write_bytes(network.SerializeToString())
        try:
            session = Session(file, threads=threads, engine=engine)
        except ModelError as error:
            raise ModelError(str(error).replace(str(file), str(path))) from None
        session.path = path  # what messages name
        return session, True


def _detect(
    detector: Detector,
    policies: Sequence[Policy],
    dataset: Dataset,
    partial: Partial | None,
    every: list[Found],
    listener: EvaluateListener,
) -> None:
    """Append what is found in every picture; those in the partial file are not looked at."""
    every += partial.found if partial else ()
    for found in every:
        if found.problem:
            listener.warned(str(found.problem))
    with closing(
        detect_all(
            stage_detector(detector, policies),
            dataset,
            detector.labels,
            batch_size=detector.session.batch or 1,
            start=len(every),
        )
    ) as coming:
        for found in coming:
            if partial:
                partial.keep(found)
            every.append(found)
            if found.problem:
                listener.warned(str(found.problem))
            listener.progressed("evaluating", len(every), len(dataset))
