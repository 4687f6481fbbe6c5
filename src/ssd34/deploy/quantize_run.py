"""``ssd34 quantize``: calibrate once, search for each kind of file, write what passed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssd34.data.atomic import write_text
from ssd34.data.checkpoint import is_named_checkpoint, read_checkpoint
from ssd34.data.checksum import sha256_of
from ssd34.data.dataset import Dataset, Problem
from ssd34.data.fingerprint import fingerprint
from ssd34.deploy.calibrate import Statistics, calibrate
from ssd34.deploy.calibration_pictures import CalibrationPictures
from ssd34.deploy.float_file import float_file
from ssd34.deploy.gate import Criterion, Trial, judged
from ssd34.deploy.layer_log import LayerLog
from ssd34.deploy.network import Network
from ssd34.deploy.proof import Bench
from ssd34.deploy.quantize import PUBLISHED_FORMS
from ssd34.deploy.quantize_config import QuantizeConfig
from ssd34.deploy.ranges import TRAINED
from ssd34.deploy.read_network import network_of, read_network
from ssd34.deploy.search import Outcome, Search
from ssd34.deploy.trials import TrialLog
from ssd34.errors import ModelError, OptionError
from ssd34.machine import this_cpu, thread_budget
from ssd34.runtime.engine_choice import EXACT, FAST
from ssd34.runtime.libraries import onnxruntime
from ssd34.runtime.saturation import int8_saturates
from ssd34.version import __version__


def network_from(model: str) -> tuple[str, Network]:
    """The float network of an ONNX file, a checkpoint or a model's name, and the file's stem.

    Raises:
        ModelError, CheckpointError, OptionError: it is none of these.
    """
    path = float_file(model)
    network = network_of(read_checkpoint(path)) if is_named_checkpoint(path) else read_network(path)
    return path.stem, network


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


def written_files(
    bench: Bench,
    outcomes: Mapping[str, Outcome],
    output: Path,
    *,
    stem: str,
    subject: Mapping[str, Any],
    settings: QuantizeConfig,
    earlier: Sequence[Trial] = (),
) -> dict[str, Path]:
    """Write each accepted file, its proof beside it, and ``quantize.json`` over all.

    A file of an earlier sitting stays where its trial is among the `earlier` ones and passes: the
    budget may have ended before the search came to it. Else it is removed with its proof; those of
    kinds that are not among the outcomes are left to `withdraw_failed`.

    Returns:
        The int8 files by form.
    """
    published: dict[str, Path] = {}
    common = {"subject": dict(subject), "criterion": dataclasses.asdict(settings.criterion)}
    for form, outcome in outcomes.items():
        path = output / f"{stem}-{form}.onnx"
        if outcome.accepted is None:
            kept = _trial_of(path, earlier, settings.criterion)
            if kept and kept.accepted and _is_proven(path):
                published[form] = path
            else:
                _withdraw(path)
            continue
        bench.write(outcome.accepted.options, path)
        proof = {"model_sha256": sha256_of(path), **common, "trial": outcome.accepted.to_dict()}
        write_text(path.with_suffix(".json"), json.dumps(proof, indent=1) + "\n")
        published[form] = path
    summary = {
        **common,
        "settings": settings.to_dict(),
        "forms": {
            form: {
                "file": published[form].name if form in published else None,
                "reason": outcome.reason,
                "best_trial": outcome.best.number if outcome.best else None,
                "trials": [trial.to_dict() for trial in outcome.trials],
            }
            for form, outcome in outcomes.items()
        },
    }
    write_text(output / "quantize.json", json.dumps(summary, indent=1) + "\n")
    return published


def withdraw_failed(
    output: Path, *, stem: str, trials: Sequence[Trial], criterion: Criterion, sought: Iterable[str]
) -> dict[Path, Trial]:
    """Remove the published files, with their proofs, of kinds that this sitting did not search for
    and whose trial does not pass any more.

    Args:
        output: the folder.
        stem: of the files' names.
        trials: those known, judged by `criterion`. A file whose proof holds none of them stays:
            nothing here says what became of it.
        criterion: the gate now.
        sought: the forms that were searched for; `written_files` has seen to them.

    Returns:
        The trial of each file that is gone.
    """
    gone: dict[Path, Trial] = {}
    for form in sorted(PUBLISHED_FORMS.keys() - set(sought)):
        path = output / f"{stem}-{form}.onnx"
        trial = _trial_of(path, trials, criterion)
        if trial and not trial.accepted and _withdraw(path):
            gone[path] = trial
    return gone


def _trial_of(path: Path, trials: Sequence[Trial], criterion: Criterion) -> Trial | None:
    """The known trial that a file's proof holds, with all that was measured in it."""
    try:
        values = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        proven = Trial.from_dict(values["trial"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OptionError):
        return None
    for trial in trials:
        if judged(proven, proven.options, number=trial.number, criterion=criterion) == trial:
            return trial
    return None


def _withdraw(path: Path) -> bool:
    """Remove an int8 file and its proof, if it is the one that the proof is about."""
    ours = _is_proven(path)
    if ours:
        path.unlink()
        path.with_suffix(".json").unlink()
    return ours


def _is_proven(path: Path) -> bool:
    """Whether there is an int8 file and the proof beside it is about it."""
    try:
        proof = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return bool(proof["model_sha256"] == sha256_of(path))
    except (OSError, ValueError, KeyError, TypeError):  # not both there, or another's
        return False
