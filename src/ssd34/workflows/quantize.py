"""``ssd34 quantize``: calibrate once, search for each kind of file, write what passed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd34.datasets.dataset import Dataset, Problem, fingerprint
from ssd34.deploy.graph.layers import Network
from ssd34.deploy.graph.read import read_network
from ssd34.deploy.int8.calibrate import Statistics, calibrate
from ssd34.deploy.int8.quantize import PUBLISHED_FORMS
from ssd34.deploy.int8.ranges import TRAINED
from ssd34.deploy.search.bench import Bench
from ssd34.deploy.search.config import QuantizeConfig
from ssd34.deploy.search.gate import Trial
from ssd34.deploy.search.log import LayerLog, TrialLog
from ssd34.deploy.search.pictures import CalibrationPictures
from ssd34.deploy.search.search import Outcome, Search
from ssd34.errors import ModelError
from ssd34.files.atomic import sha256_of, write_text
from ssd34.machine import this_cpu, thread_budget
from ssd34.runtime.engine_choice import EXACT, FAST
from ssd34.runtime.libraries import int8_saturates, onnxruntime
from ssd34.version import __version__
from ssd34.zoo.names import float_file


def network_from(model: str) -> tuple[str, Network]:
    """The float network of an ONNX file, a checkpoint or a model's name, and the file's stem.

    Raises:
        ModelError, CheckpointError, OptionError: it is none of these.
    """
    path = float_file(model)
    return path.stem, read_network(path)


def subject_of(
    network: Network,
    measured: Dataset,
    calibrating: CalibrationPictures,
    settings: QuantizeConfig,
    *,
    policy: str,
    threads: int | None,
) -> dict[str, Any]:
    """What trials must have in common to be compared."""
    cpu = this_cpu()
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
        "policy": policy,
        "rounds": settings.rounds,
        "threads": threads or thread_budget(),
        "cpu": cpu.model,
        "cpu_features": sorted(name for name, has in (cpu.features or {}).items() if has),
        "int8": f"{EXACT} where weights have 8 bits" if int8_saturates() else FAST,
        "onnxruntime": onnxruntime.__version__,
        "ssd34": __version__,
    }


def calibrated(
    network: Network,
    pictures: CalibrationPictures,
    path: Path,
    *,
    source: str,
    reuse: bool,
    threads: int | None,
    progress: Callable[[int], None],
    problem: Callable[[Problem], None],
) -> Statistics:
    """The statistics in a file, where it may be reused and fits, or new ones, written there.

    Args:
        network: in float.
        pictures: to calibrate with.
        path: the file.
        source: `CalibrationPictures.fingerprint`; statistics of other pictures do not fit.
        reuse: whether the file may serve.
        threads: None: what this process may use.
        progress: called with the number of pictures done.
        problem: called for each unreadable picture.
    """
    if reuse and path.exists():
        try:
            statistics = Statistics.load(path)
            statistics.check_network(network)
            if statistics.source == source:
                return statistics
        except ModelError:  # broken, of an older version, or of another network
            pass
    statistics = calibrate(
        network, pictures.read(problem), source=source, threads=threads, progress=progress
    )
    statistics.save(path)
    return statistics


def search_forms(
    bench: Bench,
    settings: QuantizeConfig,
    *,
    trained: bool,
    log: TrialLog,
    layers: LayerLog,
    finished: Callable[[Trial], None],
) -> dict[str, Outcome]:
    """Search for each kind of file; what passed for one is tried first for the next.

    Args:
        bench: measures.
        settings: what to try and what is good enough.
        trained: the network comes from quantization-aware training: its own steps go first.
        log: receives the trials, and has those of earlier sittings.
        layers: the same for what the layers cost.
        finished: called with each new trial.
    """

    def note(trial: Trial) -> None:
        log.add(trial)
        finished(trial)

    def ranked(trial: Trial) -> Sequence[str]:
        costs = layers.known(trial.options)
        if costs is None:
            costs = bench.ranked(trial.options)
            layers.add(trial.options, costs)
        return [cost.name for cost in costs]

    search = Search(
        bench.measure,
        ranked,
        settings.criterion,
        settings.search,
        finished=note,
        earlier=log.earlier,
    )
    outcomes: dict[str, Outcome] = {}
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


@dataclass(frozen=True)
class Published:
    """What lies in the folder after a search.

    Attributes:
        files: the int8 files of the forms that were searched for, by form.
        removed: files of earlier sittings that are gone, each with the best trial of its form.
    """

    files: dict[str, Path]
    removed: dict[Path, Trial]


def publish(
    bench: Bench,
    outcomes: Mapping[str, Outcome],
    output: Path,
    *,
    stem: str,
    subject: Mapping[str, Any],
    settings: QuantizeConfig,
    earlier: Sequence[Trial] = (),
) -> Published:
    """Write each accepted file with its proof beside it, and ``quantize.json`` over all.

    Of the other forms, searched for or not, a file of an earlier sitting stays as long as a trial
    of its form passes, or none is known; else it goes with its proof.

    Args:
        bench: writes.
        outcomes: of the forms that were searched for.
        output: the folder.
        stem: of the files' names.
        subject: what was measured.
        settings: the gate and what else was asked for.
        earlier: trials of earlier sittings, judged by today's criterion.
    """
    files: dict[str, Path] = {}
    removed: dict[Path, Trial] = {}
    common = {"subject": dict(subject), "criterion": dataclasses.asdict(settings.criterion)}
    for form, options in PUBLISHED_FORMS.items():
        path = output / f"{stem}-{form}.onnx"
        outcome = outcomes.get(form)
        if outcome and outcome.accepted:
            bench.write(outcome.accepted.options, path)
            proof = {"model_sha256": sha256_of(path), **common, "trial": outcome.accepted.to_dict()}
            write_text(path.with_suffix(".json"), json.dumps(proof, indent=1) + "\n")
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
                "trials": [trial.to_dict() for trial in outcome.trials],
            }
            for form, outcome in outcomes.items()
        },
    }
    write_text(output / "quantize.json", json.dumps(summary, indent=1) + "\n")
    return Published(files, removed)


def _is_proven(path: Path) -> bool:
    """Whether there is an int8 file and the proof beside it is about it."""
    try:
        proof = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return bool(proof["model_sha256"] == sha256_of(path))
    except (OSError, ValueError, KeyError, TypeError):  # not both there, or another's
        return False
