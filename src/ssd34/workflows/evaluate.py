"""A model, or detections in files, to numbers on annotated pictures: what ``evaluate`` does."""

from __future__ import annotations

import dataclasses
import datetime
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd34.core.postprocess import POLICIES, Policy, named_policy
from ssd34.core.preprocess import CARD
from ssd34.datasets.coco import read_annotations_alone
from ssd34.datasets.dataset import Dataset, fingerprint
from ssd34.datasets.open import open_dataset, select_classes, use_coco_names
from ssd34.errors import DatasetError, ModelError, OptionError, require
from ssd34.evaluate.bootstrap import match
from ssd34.evaluate.evaluator import Found, detect_all, stage_detector
from ssd34.evaluate.metrics import describe_unknown_classes, match_categories
from ssd34.evaluate.partial import Partial, locate_partial, open_partial, read_engine
from ssd34.evaluate.report.page import (
    NUMBERS,
    PAGE,
    STEPS,
    EvaluationReport,
    Provenance,
    check_report,
    describe_machine,
    list_versions,
    write_report,
)
from ssd34.evaluate.results import Results, find_coverage_gap, read_results, write_results
from ssd34.evaluate.score import (
    Differences,
    Score,
    ScoreOptions,
    apply_metric,
    compare,
    score,
)
from ssd34.files.atomic import compute_sha256, is_special, write_json
from ssd34.runtime.detector import Detector
from ssd34.runtime.engine import AUTO, DEFAULT_ENGINE
from ssd34.runtime.engine_choice import find_int8_way
from ssd34.runtime.session import Session
from ssd34.text import counted
from ssd34.version import __version__
from ssd34.workflows.outputs import check_outputs
from ssd34.zoo.names import model_path

DEFAULT_POLICY = "zoo"
ALL = "all"
OWN_TAIL = "the file's own tail"
_ROUNDING = 1e-6


class EvaluateListener:
    """Hears what happens meanwhile. This one does nothing; override what you want to hear."""

    def dataset_opened(self, dataset: Dataset) -> None:
        """The data are open; ``dataset.problems`` had to be left out."""

    def engine_chosen(self, reason: str) -> None:
        """Of two engines one was taken, and why."""

    def warned(self, message: str) -> None:
        """Something is odd or cannot be read; the evaluation continues."""

    def progressed(self, step: str, done: int, total: int) -> None:
        """So much of a step, such as ``evaluating``, is done."""

    def interrupted(self, done: int, total: int, kept: Path | None) -> None:
        """By the keyboard; so many pictures were done and lie in `kept`, for ``resume``."""


SILENT = EvaluateListener()


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(ScoreOptions):
    """How detections are scored, on which part of a data set, and what is written.

    Attributes:
        classes: only these count; none: all.
        coco_names: COCO's names for VOC's classes.
        limit: only the first so many pictures.
        json_file: takes all numbers.
        report: folder for a page with curves, errors and pictures.
        report_classes: those with a curve of their own in the report; none: the commonest.
        command: what the report says it was made by.
    """

    classes: tuple[str, ...] = ()
    coco_names: bool = False
    limit: int | None = None
    json_file: Path | None = None
    report: Path | None = None
    report_classes: tuple[str, ...] = ()
    command: str = "ssd34.evaluate, from Python"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None and self.limit < 1:
            raise OptionError(f"expected a limit of at least 1 picture, got {self.limit}")
        if self.report_classes and not self.report:
            raise OptionError("--report-class: names curves of a report; give --report DIR, too")


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


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured.

    Attributes:
        title: what on what.
        scores: by policy; of detections in a file one, by the file's name.
        results: the detections, in COCO's results form; under the first policy.
        unreadable: how many pictures could not be read; they count as empty.
        problems: how many pictures or boxes of the data set had to be left out.
        values: all numbers and where they come from, JSON-ready.
        report: the page, if one was asked for.
    """

    title: str
    scores: Mapping[str, Score]
    results: Results
    unreadable: int
    problems: int
    values: Mapping[str, Any]
    report: Path | None

    @property
    def score(self) -> Score:
        """The first one, where there are several."""
        return next(iter(self.scores.values()))


@dataclass(frozen=True, eq=False)
class ComparedDetections:
    """Two files of detections on the same pictures: on what, the differences, how many pictures or
    boxes of the data set had to be left out, and all numbers, JSON-ready."""

    title: str
    comparison: Differences
    problems: int
    values: Mapping[str, Any]


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
    everything = open_dataset(data)
    outputs = _check_outputs(
        options, everything, models=(str(model),), data=data, detections=options.detections
    )
    replaces = options.detections is not None and options.detections.is_file()
    if replaces and not (options.resume or options.overwrite):
        raise OptionError(
            f"--detections {options.detections}: with MODEL expected a new file to write, got one "
            "that exists; leave MODEL out to score it, or give --overwrite to replace it"
        )
    listener.dataset_opened(everything)
    everything, dataset = _chosen(everything, options)
    about_data = _describe_data(data, dataset, options)
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
        if beside:
            partial = stack.enter_context(
                open_partial(locate_partial(beside), identity, dataset, resume=options.resume)
            )
        kept = partial.path if partial else None
        stack.enter_context(telling_what_is_kept(listener, lambda: len(every), len(dataset), kept))
        _detect(detector, policies, dataset, partial, every, listener)
        results = [
            Results.joined(found.results[k] for found in every if found.results)
            for k in range(len(names))
        ]
        scores = {
            name: _scored(dataset, found, options, listener)
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
        _write_numbers(options, values)
        if options.detections:
            write_results(options.detections, results[0])
        page = _report(
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


def score_detections(
    file: Path, data: str | Path, options: ScoringOptions | None = None, *,
    listener: EvaluateListener = SILENT,
) -> Evaluation:  # fmt: skip
    """Score anybody's detections, a file of COCO results, on a data set whose pictures need not be
    there; errors as `evaluate`."""
    options = options or ScoringOptions()
    everything, dataset = _open_boxes(data, options, files=(file,), listener=listener)
    results = _read(file, everything, dataset, listener)
    if options.report:
        results = _between_0_and_1(results, file)
    found = _scored(dataset, results, options, listener)
    about = {"detections": str(file), "detections_sha256": compute_sha256(file)}
    about_data = _describe_data(data, dataset, options)
    page = _report(
        options, about_data, dataset, results, found,
        subject=file.name, about=about, listener=listener,
    )  # fmt: skip
    values = {**about_data, **about, **found.to_dict()}
    _write_numbers(options, values)
    title = f"{file} on {dataset.name}: {counted(len(dataset), 'picture')}"
    return Evaluation(title, {file.name: found}, results, 0, len(dataset.problems), values, page)


def compare_detections(
    files: tuple[Path, Path], data: str | Path, options: ScoringOptions | None = None, *,
    listener: EvaluateListener = SILENT,
) -> ComparedDetections:  # fmt: skip
    """Compare two files of detections on the same pictures; see `score_detections`."""
    options = options or ScoringOptions()
    if options.report:
        raise OptionError(
            f"--report {options.report}: --compare takes two files of detections; leave it out"
        )
    everything, dataset = _open_boxes(data, options, files=files, listener=listener)
    seen = apply_metric(options.metric, dataset)
    first, second = (_read(file, everything, dataset, listener) for file in files)
    found = compare(
        match(seen, first.within(seen)),
        match(seen, second.within(seen)),
        resamples=options.resamples,
        seed=options.seed,
        progress=lambda done: listener.progressed("resampling", done, 2 * options.resamples),
    )
    names = ("first", "second")
    values = {
        **_describe_data(data, dataset, options),
        "metric": options.metric,
        **{name: str(file) for name, file in zip(names, files, strict=True)},
        **{f"{name}_sha256": compute_sha256(file) for name, file in zip(names, files, strict=True)},
        **found.to_dict(),
    }
    _write_numbers(options, values)
    metric = "" if options.metric == "coco" else f", metric {options.metric}, not COCO's"
    title = f"{dataset.name}: {counted(len(dataset), 'picture')}{metric}"
    return ComparedDetections(title, found, len(dataset.problems), values)


def _check_outputs(
    options: ScoringOptions,
    everything: Dataset,
    *,
    data: str | Path,
    files: Sequence[Path] = (),
    models: Sequence[str] = (),
    detections: Path | None = None,
) -> tuple[Path, ...]:
    """The files that will be written, the report's page last; none of them is read here."""
    report = options.report
    outputs = tuple(file for file in (options.json_file, detections) if file)
    pages = (report / PAGE, report / NUMBERS) if report else ()
    check_outputs(
        (*outputs, *pages), files=files, models=models, data=(data,), datasets=(everything,),
        made=(report,),
    )  # fmt: skip
    return (*outputs, *pages[:1])


def _open_boxes(
    data: str | Path, options: ScoringOptions, *, files: Sequence[Path], listener: EvaluateListener
) -> tuple[Dataset, Dataset]:
    """All that detections in files may name, and what counts of it."""
    require("hotcoco", extra="evaluate", why="evaluation")
    everything = read_boxes(data, look=bool(options.report))
    _check_outputs(options, everything, data=data, files=files)
    listener.dataset_opened(everything)
    return _chosen(everything, options)


def read_boxes(data: str | Path, *, look: bool) -> Dataset:
    """A data set whose pictures are not needed: of a COCO .json, they need not be there. To `look`
    at them they are opened, if they all are there."""
    path = Path(data)
    if path.suffix.lower() != ".json" or not path.is_file():
        return open_dataset(data)
    boxes = read_annotations_alone(path)
    if look:
        with suppress(DatasetError):
            opened = open_dataset(data)
            if len(opened) == len(boxes):
                return opened
    return boxes


def _chosen(everything: Dataset, options: ScoringOptions) -> tuple[Dataset, Dataset]:
    """Everything under the names that were asked for, and the part that counts; metric and report
    can be made of it, and the report's folder is there."""
    if options.coco_names:
        everything = use_coco_names(everything, own_ids=True)  # detections have these
    dataset = select_classes(everything, options.classes) if options.classes else everything
    dataset = dataclasses.replace(dataset, samples=dataset.samples[: options.limit])
    seen = apply_metric(options.metric, dataset)  # before the work, not after it
    if options.report:
        check_report(options.report, seen, options.report_classes)
        options.report.mkdir(parents=True, exist_ok=True)
    return everything, dataset


def _describe_data(data: str | Path, dataset: Dataset, options: ScoringOptions) -> dict[str, Any]:
    return {
        "data": str(data),
        "data_sha256": fingerprint(dataset),
        "limit": options.limit,
        "classes": list(options.classes) or None,
        "ssd34": __version__,
        "problems": len(dataset.problems),
    }


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


@contextmanager
def telling_what_is_kept(
    listener: EvaluateListener, done: Callable[[], int], total: int, kept: Path | None
) -> Iterator[None]:
    """Tell the listener of an interruption."""
    try:
        yield
    except KeyboardInterrupt:
        listener.interrupted(done(), total, kept)
        raise


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
            stage_detector(detector, policies or None),
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


def _scored(
    dataset: Dataset, results: Results, options: ScoreOptions, listener: EvaluateListener
) -> Score:
    return score(
        dataset, results, options, progress=_progress(listener, "resampling", options.resamples)
    )


def _progress(listener: EvaluateListener, step: str, total: int) -> Callable[[int], None]:
    return lambda done: listener.progressed(step, done, total)


def _read(file: Path, everything: Dataset, dataset: Dataset, listener: EvaluateListener) -> Results:
    results = read_results(file, everything).within(dataset)
    gap = find_coverage_gap(results, dataset)
    if gap:
        listener.warned(
            f"{file}: has no detections in the last {gap} of {len(dataset)} pictures, which count "
            "as missed; if it was made on fewer, give --limit"
        )
    return results


def _between_0_and_1(results: Results, file: Path) -> Results:
    """Detections whose scores a report can draw: what rounding added is cut off."""
    scores = results.scores
    if len(scores) and not (scores.min() >= -_ROUNDING and scores.max() <= 1 + _ROUNDING):
        raise OptionError(
            f"{file}: scores from {scores.min():g} to {scores.max():g}; --report draws them from 0 "
            "to 1: scale them, or leave --report out"
        )
    return dataclasses.replace(results, scores=scores.clip(0, 1))


def _write_numbers(options: ScoringOptions, values: Mapping[str, Any]) -> None:
    if options.json_file:
        write_json(options.json_file, values)


def _report(
    options: ScoringOptions,
    about_data: Mapping[str, Any],
    dataset: Dataset,
    results: Results,
    found: Score,
    *,
    subject: str,
    about: Mapping[str, object],
    listener: EvaluateListener,
    threads: int | None = None,
) -> Path | None:
    """Write the report that was asked for; returns its page. `about` is what is known of the
    subject."""
    if not options.report:
        return None
    data = about_data["data"]
    inputs = {**about, "data": data, "annotations_sha256": about_data["data_sha256"]}
    if Path(data).is_file():  # a file's hash says more than the annotations'
        inputs["data file_sha256"] = compute_sha256(Path(data))
    if options.limit:
        inputs["limit"] = f"the first {counted(options.limit, 'picture')}"
    inputs["metric"] = found.metric
    report = EvaluationReport(
        title=f"{subject} on {Path(dataset.name).name}",
        dataset=dataset,
        results=results,
        score=found,
        provenance=Provenance(
            command=options.command,
            created=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            inputs={name.replace("_sha256", " SHA-256"): str(v) for name, v in inputs.items()},
            versions=list_versions(),
            machine=describe_machine(threads=threads),
        ),
        classes=options.report_classes,
    )
    return write_report(options.report, report, progress=_progress(listener, "report", STEPS))
