"""A float model to int8 files that are proven accurate and faster: what ``quantize`` does."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd34.core.postprocess import ZOO, Policy, named_policy
from ssd34.datasets.dataset import Dataset, fingerprint
from ssd34.datasets.open import choose_part, open_dataset
from ssd34.deploy.graph.export import ExportOptions
from ssd34.deploy.graph.layers import Network
from ssd34.deploy.graph.onnx_file import read_model
from ssd34.deploy.graph.read import read_network
from ssd34.deploy.graph.tail import read_tail_policy
from ssd34.deploy.int8.calibrate import CalibrationStatistics, calibrate
from ssd34.deploy.int8.plan import check_ranges
from ssd34.deploy.int8.quantize import PUBLISHED_FORMS
from ssd34.deploy.int8.ranges import TRAINED
from ssd34.deploy.search.bench import Bench
from ssd34.deploy.search.config import QuantizeConfig
from ssd34.deploy.search.gate import Trial, plot_trials
from ssd34.deploy.search.log import LayerLog, TrialLog
from ssd34.deploy.search.pictures import CalibrationPictures, count_seen, from_path, split
from ssd34.deploy.search.search import Search, SearchOutcome
from ssd34.errors import MissingExtraError, ModelError, OptionError, require
from ssd34.evaluate.metrics import describe_unknown_classes, match_categories
from ssd34.files.atomic import compute_sha256, write_json
from ssd34.files.checkpoint import is_named_checkpoint
from ssd34.files.lock import folder_locked
from ssd34.machine import describe_cpu, thread_budget
from ssd34.runtime.engine_choice import EXACT, FAST
from ssd34.runtime.onnxruntime_engine import int8_saturates, onnxruntime
from ssd34.version import __version__
from ssd34.workflows.outputs import check_kinds, check_outputs
from ssd34.workflows.scoring import EvaluateListener, read_boxes, telling_what_is_kept
from ssd34.zoo.names import find_float_file

NUMBERS = "quantize.json"
WRITTEN = (NUMBERS, "trials.jsonl", "layers.json", "calibration.npz", "trials.png")
"""What lies in the folder beside the int8 files and their proofs."""


class QuantizeListener(EvaluateListener):
    """Hears what happens meanwhile. This one does nothing; override what you want to hear.

    Its steps are ``reading what was seen``, ``calibrating``, ``measuring AP``, ``timing`` and
    ``ranking layers``. Where it is told of an interruption, `done` counts the trials of `total`
    that the folder keeps.
    """

    def noted(self, message: str) -> None:
        """Something was decided that is worth knowing."""

    def tried(self, trial: Trial) -> None:
        """A new trial is measured and kept."""


SILENT = QuantizeListener()


@dataclass(frozen=True, eq=False)
class Quantized:
    """How a search ended.

    Attributes:
        files: the int8 files of the kinds that were searched for and pass, by kind.
        outcomes: of each kind that was searched for: its trials and why the search ended.
        removed: files of earlier sittings that do not pass any more, each with the best trial of
            its kind.
        pictures: how many were measured on.
        seen: how many of them are also in the data sets that the settings say the network was
            trained on; None where they name none.
    """

    files: Mapping[str, Path]
    outcomes: Mapping[str, SearchOutcome]
    removed: Mapping[Path, Trial]
    pictures: int
    seen: int | None


def quantize(
    model: str | Path,
    data: str | Path,
    output: str | Path,
    settings: QuantizeConfig | None = None,
    *,
    coco_names: bool = False,
    limit: int | None = None,
    policy: str | None = None,
    resume: bool = False,
    threads: int | None = None,
    listener: QuantizeListener = SILENT,
) -> Quantized:
    """Search for int8 files of a model, and write those that are proven accurate and faster.

    An interruption keeps the trials that are done, for `resume`.

    Args:
        model: path of a float ONNX file or a checkpoint, or a name.
        data: path of the data set to measure AP on.
        output: folder for the files, their proofs and the trials; it is made.
        settings: what to try and what is good enough; None: as the defaults say.
        coco_names: COCO's names for VOC's classes.
        limit: only the first so many pictures of the data, those that calibrate included.
        policy: name of the NMS policy in the files; None: ``zoo``, with the score threshold of an
            ONNX file's own NMS. The settings may give another threshold.
        resume: continue with the trials in the folder.
        threads: None: what this process may use.
        listener: hears of progress, trials and warnings.

    Raises:
        DatasetError: the data cannot be used, have no class in common with the model, or the float
            model finds nothing in them.
        ModelError, CheckpointError: no such model, or none that can be quantized.
        OptionError: a setting does not fit the model, the folder holds trials that cannot be
            continued, or it cannot be written.
        MissingExtraError: an optional library is not installed.
    """
    require("hotcoco", extra="quantize", why="the measurement of AP")
    settings, output = settings or QuantizeConfig(), Path(output)
    nms = named_policy(policy) if policy else ZOO
    files = ExportOptions(policy=nms, image_input=settings.quantization.image_input)
    if limit is not None and limit < 1:
        raise OptionError(f"expected a limit of at least 1 picture, got {limit}")
    if threads is not None and threads < 1:
        raise OptionError(f"expected threads of at least 1, or None, got {threads}")
    if output.is_file():
        raise OptionError(f"{output}: is a file; expected a folder to write into")
    check_kinds(models=(str(model),), data=(data,))
    check_outputs(
        [output / name for name in WRITTEN], models=(str(model),), data=(data,), made=(output,)
    )
    with folder_locked(output):
        dataset = choose_part(open_dataset(data), coco_names=coco_names, limit=limit)
        listener.dataset_opened(dataset)

        path = find_float_file(str(model))
        network = read_network(path)
        threshold = settings.quantization.score_threshold
        if threshold is None and policy is None and not is_named_checkpoint(path):
            threshold = read_tail_policy(read_model(path).graph).score_threshold
        if threshold is not None:
            nms = nms.replace(score_threshold=threshold)
            files = dataclasses.replace(files, policy=nms)
        settings = _checked(settings, network, dataset, listener)
        own = settings.calibration.data
        if own is None:
            calibrating, measured = split(dataset, pictures=settings.calibration.pictures)
        else:
            calibrating = from_path(own, pictures=settings.calibration.pictures)
            measured = dataset

        subject = _subject_of(network, measured, calibrating, settings, policy=nms, threads=threads)
        log = TrialLog(
            output / "trials.jsonl", subject=subject, criterion=settings.criterion, resume=resume
        )
        if shared := subject["calibration_pictures_measured"]:
            listener.warned(
                f"{shared} of the {len(calibrating)} calibration pictures "
                f"{'is' if shared == 1 else 'are'} also measured on; the "
                "int8 files may look better than they are"
            )
        seen = _count_seen(settings.seen, measured, listener)
        statistics = _calibrate(
            network, calibrating, output / "calibration.npz", source=subject["calibration_sha256"],
            reuse=resume, threads=threads, listener=listener,
        )  # fmt: skip
        with (
            telling_what_is_kept(listener, lambda: log.count, settings.search.max_trials, output),
            tempfile.TemporaryDirectory(prefix="ssd34-quantize-") as work,
        ):
            bench = Bench(
                network, statistics, measured, files=files, folder=Path(work),
                rounds=settings.rounds, threads=threads, progress=listener.progressed,
                problem=lambda problem: listener.warned(f"counts as missed: {problem}"),
            )  # fmt: skip
            layers = LayerLog(output / "layers.json", subject=subject, resume=resume)
            outcomes = _search_forms(
                bench, settings, trained=bool(network.trained), log=log, layers=layers,
                listener=listener,
            )  # fmt: skip
            # Unreadable pictures were planned with, but did not calibrate.
            proven = {
                **subject, "calibration_pictures": statistics.pictures, "seen_in_training": seen
            }  # fmt: skip
            found = _publish(
                bench, outcomes, output, stem=path.stem, subject=proven, settings=settings,
                earlier=log.earlier,
            )  # fmt: skip
        for removed, trial in found.removed.items():
            listener.warned(
                f"{removed}: removed with its proof: trial {trial.number} now {trial.verdict}"
            )
        trials = list(dict.fromkeys(t for outcome in outcomes.values() for t in outcome.trials))
        if trials:
            try:
                plot_trials(
                    trials, output / "trials.png", criterion=settings.criterion,
                    title=f"{path.stem} on {measured.name}",
                )  # fmt: skip
            except MissingExtraError as error:
                listener.warned(str(error))
        return found


def _checked(
    settings: QuantizeConfig, network: Network, dataset: Dataset, listener: QuantizeListener
) -> QuantizeConfig:
    """The settings with this network's names; what cannot work is better said before the work."""
    in_float = network.resolve_names(settings.quantization.float_nodes)
    settings = settings.changed({"quantization": {"float_nodes": in_float or None}})
    check_ranges(network, settings.quantization.ranges)
    match_categories(network.labels, dataset)
    if unknown := describe_unknown_classes(network.labels, dataset):
        listener.warned(unknown)
    if settings.quantization.reduce_range is None and settings.quantization.narrow_weights:
        listener.noted(
            "weights get 7 bits, as 8 would need a slower way on this processor, which has no "
            "VNNI; for 8 set quantization.reduce_range to false in --config"
        )
    return settings


def _count_seen(paths: Sequence[str], measured: Dataset, listener: QuantizeListener) -> int | None:
    """How many pictures the network was trained on, or None where nobody says."""
    if not paths:
        return None
    datasets = [read_boxes(path, look=True) for path in paths]
    total = sum(map(len, datasets))
    return count_seen(
        measured,
        datasets,
        progress=lambda done: listener.progressed("reading what was seen", done, total),
    )


def _subject_of(
    network: Network,
    measured: Dataset,
    calibrating: CalibrationPictures,
    settings: QuantizeConfig,
    *,
    policy: Policy,
    threads: int | None,
) -> dict[str, Any]:
    """What trials must have in common to be compared."""
    cpu = describe_cpu()
    return {
        "network": network.fingerprint,
        "classes_sha256": hashlib.sha256(json.dumps(network.labels.to_dict()).encode()).hexdigest(),
        "trained_steps": network.steps_fingerprint,
        "data": measured.name,
        "data_sha256": fingerprint(measured),
        "pictures": len(measured),
        "calibration": calibrating.name,
        "calibration_sha256": calibrating.fingerprint(),
        "calibration_pictures": len(calibrating),
        "calibration_pictures_measured": calibrating.shared_with(measured),
        "image_input": settings.quantization.image_input,
        "policy": policy.name,
        "score_threshold": policy.score_threshold,
        "rounds": settings.rounds,
        "threads": threads or thread_budget(),
        "cpu": cpu.model,
        "cpu_features": sorted(name for name, has in (cpu.features or {}).items() if has),
        "int8": f"{EXACT} where weights have 8 bits" if int8_saturates() else FAST,
        "onnxruntime": onnxruntime.__version__,
        "ssd34": __version__,
    }


def _calibrate(
    network: Network,
    pictures: CalibrationPictures,
    path: Path,
    *,
    source: str,
    reuse: bool,
    threads: int | None,
    listener: QuantizeListener,
) -> CalibrationStatistics:
    """The statistics in a file, where it may be reused and fits, or new ones, written there."""
    if reuse and path.exists():
        try:
            statistics = CalibrationStatistics.load(path)
            statistics.check_network(network)
            if statistics.source == source:
                return statistics
        except ModelError:  # broken, of an older version, or of another network
            pass
    statistics = calibrate(
        network,
        pictures.read(lambda problem: listener.warned(f"{pictures.name}: left out {problem}")),
        source=source,
        threads=threads,
        progress=lambda done: listener.progressed("calibrating", done, len(pictures)),
    )
    statistics.save(path)
    return statistics


def _search_forms(
    bench: Bench,
    settings: QuantizeConfig,
    *,
    trained: bool,
    log: TrialLog,
    layers: LayerLog,
    listener: QuantizeListener,
) -> dict[str, SearchOutcome]:
    """Search for each kind of file; what passed for one is tried first for the next, and of a
    network from quantization-aware training (`trained`) its own steps before."""

    def note(trial: Trial) -> None:
        log.add(trial)
        listener.tried(trial)

    def ranked(trial: Trial) -> Sequence[str]:
        costs = layers.known(trial.options)
        if costs is None:
            costs = bench.ranked(trial.options)
            layers.add(trial.options, costs)
        return [cost.name for cost in costs]

    search = Search(
        bench.measure, ranked, settings.criterion, settings.search, finished=note,
        earlier=log.earlier,
    )  # fmt: skip
    outcomes: dict[str, SearchOutcome] = {}
    for form in settings.quantization.forms:
        candidates = settings.quantization.candidates(form)
        if trained:
            candidates.insert(0, candidates[0].replace(
                ranges=TRAINED, bias_correction=False, reduce_range=True
            ))  # fmt: skip
        for outcome in outcomes.values():
            if outcome.accepted:
                known = outcome.accepted.options
                candidates.insert(0, candidates[0].replace(
                    ranges=known.ranges,
                    bias_correction=known.bias_correction,
                    reduce_range=known.reduce_range,
                    float_nodes=known.float_nodes,
                ))  # fmt: skip
        outcomes[form] = search.run(list(dict.fromkeys(candidates)))
    return outcomes


def _publish(
    bench: Bench,
    outcomes: Mapping[str, SearchOutcome],
    output: Path,
    *,
    stem: str,
    subject: Mapping[str, Any],
    settings: QuantizeConfig,
    earlier: Sequence[Trial],
) -> Quantized:
    """Write each accepted file with its proof beside it, and ``quantize.json`` over all. A file of
    an earlier sitting stays as long as a trial of its form passes, by today's criterion, or none is
    known; else it goes with its proof."""
    files: dict[str, Path] = {}
    removed: dict[Path, Trial] = {}
    common = {"subject": dict(subject), "criterion": dataclasses.asdict(settings.criterion)}
    for form, options in PUBLISHED_FORMS.items():
        path = output / f"{stem}-{form}.onnx"
        outcome = outcomes.get(form)
        if outcome and outcome.accepted:
            bench.write(outcome.accepted.options, path)
            proof = {
                "model_sha256": compute_sha256(path),
                **common,
                "trial": outcome.accepted.to_dict(),
            }
            write_json(path.with_suffix(".json"), proof)
            files[form] = path
        elif _is_proven(path):
            trials = [t for t in (*earlier, *(outcome.trials if outcome else ()))
                      if t.options.is_kind_of(options)]  # fmt: skip
            if trials and not any(trial.accepted for trial in trials):
                path.unlink()
                path.with_suffix(".json").unlink()
                removed[path] = min(trials, key=lambda trial: trial.drop)
            elif trials and outcome:
                files[form] = path
    summary = {
        **common,
        "settings": settings.to_dict(),
        "forms": {
            form: {
                "file": files[form].name if form in files else None,
                "reason": outcome.reason,
                "best_trial": outcome.best.number if outcome.best else None,
                "passes_with": outcome.best.passes_with if outcome.best else None,
                "trials": [trial.to_dict() for trial in outcome.trials],
            }
            for form, outcome in outcomes.items()
        },
    }
    write_json(output / NUMBERS, summary)
    return Quantized(files, outcomes, removed, subject["pictures"], subject["seen_in_training"])


def _is_proven(path: Path) -> bool:
    """Whether there is an int8 file and the proof beside it is about it."""
    try:
        proof = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return bool(proof["model_sha256"] == compute_sha256(path))
    except (OSError, ValueError, KeyError, TypeError):  # not both there, or another's
        return False
