"""``ssd34 quantize`` on a tiny network, with what the float network finds as the truth."""

import json
import os
import re
import shutil
import signal
import tempfile
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
import yaml
from PIL import Image

from ssd34.core.contract import METADATA_LABELS, NOTE_INT8_STEPS
from ssd34.core.labels import LabelSet
from ssd34.datasets.open import open_dataset
from ssd34.deploy.int8.calibrate import CalibrationStatistics, calibrate
from ssd34.deploy.int8.plan import choose_steps
from ssd34.deploy.search.bench import Bench, LayerCost
from ssd34.deploy.search.gate import Measurement
from ssd34.errors import Ssd34Error
from ssd34.files.atomic import compute_sha256
from ssd34.runtime.detector import Detector
from ssd34.runtime.onnxruntime_engine import int8_saturates
from ssd34.runtime.timing import SpeedUp
from tests.conftest import TINY_LABELS
from tests.support.cli import invoke, read_document
from tests.support.refusals import assert_facts, refused

KNOWN: dict[tuple[str, str], CalibrationStatistics] = {}


@pytest.fixture(autouse=True, scope="module")
def _calibrate_once():
    """The same pictures of the same network give the same statistics in every test."""

    def known(network, pictures, *, source, progress, **more):
        key = network.fingerprint, source
        if key not in KNOWN:
            KNOWN[key] = calibrate(network, pictures, source=source, progress=progress, **more)
        for _ in pictures:  # which tells what is broken
            pass
        return KNOWN[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssd34.workflows.quantize.calibrate", known)
        yield


@pytest.fixture(autouse=True)
def _no_plot(monkeypatch):
    """It takes longer than a trial; the files that several tests look at have one."""
    monkeypatch.setattr("ssd34.workflows.quantize.plot_trials", lambda *_, **__: None)


def quantize_into(
    folder, model, *arguments, data, code=0, catch=False, output="out", rounds=2, **quantization
):
    config = folder / "given.yaml"
    values = {"rounds": rounds, "calibration": {"pictures": 4}, "quantization": quantization}
    config.write_text(yaml.safe_dump(values))
    return invoke(
        "quantize", model, "--data", data, "--output", folder / output, "--config", config,
        *arguments, code=code, catch=catch,
    )  # fmt: skip


@pytest.fixture
def run(found_shapes, tmp_path):
    return partial(quantize_into, tmp_path, **{"data": found_shapes})


@pytest.fixture(scope="module")
def accepted(tiny_model, found_shapes, tmp_path_factory):
    """A folder with accepted files of all kinds."""
    folder = tmp_path_factory.mktemp("accepted")
    more = {"data": found_shapes, "ranges": "minmax"}
    result = quantize_into(folder, tiny_model, "--format", "both", *EASY, "--json", **more)
    told = read_document("quantize", result)
    assert told == json.loads((folder / "out" / "quantize.json").read_text())
    return folder / "out"


EASY = ("--max-drop", "0.9", "--min-speedup", "0.001")
STRICT = ("--max-drop", "0.9", "--min-speedup", "99")


def rows(folder):
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]


def test_accepted_files_come_with_their_proof(accepted):
    summary = json.loads((accepted / "quantize.json").read_text())
    for form, operator in (
        ("12-int8", "QLinearConv"),
        ("12-qdq", "DequantizeLinear"),
        ("13-qdq", "DequantizeLinear"),
    ):
        path = accepted / f"tiny-{form}.onnx"
        model = onnx.load(path)
        assert operator in {node.op_type for node in model.graph.node}
        assert [o.version for o in model.opset_import if not o.domain] == [int(form[:2])]
        proof = json.loads(path.with_suffix(".json").read_text())
        assert proof["model_sha256"] == compute_sha256(path)
        assert proof["trial"]["accepted"] is True
        assert proof["trial"]["ap"] == pytest.approx(
            (1 - proof["trial"]["drop"]) * proof["trial"]["float_ap"]
        )
        assert summary["forms"][form]["file"] == path.name
        Detector.load(path).detect(np.zeros((50, 60, 3), np.uint8))
    assert (accepted / "trials.png").read_bytes().startswith(b"\x89PNG")
    assert [row["number"] for row in rows(accepted)[1:]] == [1, 2, 3]
    assert proof["subject"]["pictures"] == 8
    assert proof["subject"]["calibration_pictures"] == 4
    exact = "exact (no VNNI) where weights have 8 bits"
    assert proof["subject"]["int8"] == (exact if int8_saturates() else "fast")


def test_a_file_that_passes_stays_where_the_budget_ends_before_it(run, tiny_model, tmp_path):
    """Another percentile makes another trial, for which there is no budget any more."""
    out = tmp_path / "out"
    once = ("--max-trials", "1", *EASY)
    run(tiny_model, *once, ranges="percentile")
    published = [out / "tiny-12-int8.onnx", out / "tiny-12-int8.json"]
    before = [path.read_bytes() for path in published]
    again = run(tiny_model, *once, "--resume", ranges="percentile", percentile=99.9)
    assert [path.read_bytes() for path in published] == before
    assert "kept from before" in again.output


def test_a_file_of_a_kind_not_sought_now_is_judged_too(accepted, run, tiny_model, tmp_path):
    """It is kept where a trial of its kind passes, and removed where none does."""
    out = shutil.copytree(accepted, tmp_path / "out")

    def search(speedup, *arguments, code=0):
        once = ("--max-trials", "3", "--max-drop", "0.9", "--min-speedup", speedup)
        return run(tiny_model, *once, *arguments, code=code, ranges="minmax")

    names = ["tiny-12-qdq", "tiny-13-qdq", "tiny-12-int8"]
    files = [out / f"{name}{suffix}" for name in names for suffix in (".onnx", ".json")]
    before = [path.read_bytes() for path in files[:4]]
    again = search("0.002", "--resume")
    assert "removed" not in again.stderr
    assert [path.read_bytes() for path in files[:4]] == before

    # As if somebody had put another file there: its proof is not about it.
    files[2].write_bytes(b"somebody's")
    strict = search("99", "--resume", code=4)
    assert [path.exists() for path in files] == [False, False, True, True, False, False]
    [gone] = [line for line in strict.stderr.splitlines() if str(files[0]) in line]
    assert_facts(gone, "removed", "trial 2", "speed")


def test_what_would_have_passed_is_told_and_passes(run, tiny_model, tmp_path, monkeypatch):
    measured = Measurement(
        ap=0.43333, float_ap=0.5, ms=4.0, float_ms=5.0, speedup=SpeedUp(1.25, 1.23456, 1.3, 0.95),
        seconds=1.0, file_bytes=123,
    )  # fmt: skip
    monkeypatch.setattr(Bench, "measure", lambda *_: measured)
    once = ("--max-trials", "1")
    for given, eased in (
        (("--max-drop", "0.9"), {"min_speedup": 1.234}),
        (("--min-speedup", "1"), {"max_drop": 0.1334}),
        ((), {"max_drop": 0.1334, "min_speedup": 1.234}),
    ):
        output = f"out{len(eased)}{len(given)}{''.join(eased)}"
        refusal = run(tiny_model, *once, *given, code=4, output=output, ranges="minmax")
        told = json.loads((tmp_path / output / "quantize.json").read_text())
        assert told["forms"]["12-int8"]["passes_with"] == eased
        (words,) = re.findall(r"trial 1, which passes with (.*)", refusal.output)
        assert len(words.split()) == 1 + 2 * len(eased)
        run(tiny_model, *once, *given, *words.split(), output=output, ranges="minmax")
        told = json.loads((tmp_path / output / "quantize.json").read_text())
        assert told["forms"]["12-int8"]["passes_with"] == {}


def test_a_file_that_loses_half_of_the_ap_gets_no_advice(run, tiny_model, tmp_path, monkeypatch):
    measured = Measurement(
        ap=0.25, float_ap=0.5, ms=4.0, float_ms=5.0, speedup=SpeedUp(1.25, 1.23456, 1.3, 0.95),
        seconds=1.0, file_bytes=123,
    )  # fmt: skip
    for ap, eased in ((0.0, {}), (0.25, {}), (0.26, {"max_drop": 0.48, "min_speedup": 1.234})):
        monkeypatch.setattr(Bench, "measure", lambda *_, ap=ap: replace(measured, ap=ap))
        once = ("--max-trials", "1")
        refusal = run(tiny_model, *once, code=4, output=f"out{ap}", ranges="minmax")
        told = json.loads((tmp_path / f"out{ap}" / "quantize.json").read_text())
        assert told["forms"]["12-int8"]["passes_with"] == eased
        assert ("--max-drop" in refusal.output) is bool(eased)


def test_layers_go_back_to_float_until_the_gate_is_passed(run, tiny_model, tmp_path, monkeypatch):
    """With no loss allowed the search has to leave int8 step by step."""
    costs = [LayerCost(name, 1.0, 1.0, 1.0) for name in ("backbone.conv1", "heads.loc.0")]
    monkeypatch.setattr("ssd34.deploy.search.bench.measure_layer_costs", lambda *_, **__: costs)
    result = run(
        tiny_model, "--max-drop", "0", "--min-speedup", "0.001", "--max-trials", "4",
        code=None, ranges="minmax",
    )  # fmt: skip
    trials = rows(tmp_path / "out")[1:]
    in_float = [len(trial["options"]["float_nodes"]) for trial in trials]
    if trials[0]["drop"] > 0:
        assert len(in_float) > 1 and in_float[:3] == [0, 1, 2][: len(in_float)]
    accepted = [trial for trial in trials if trial["accepted"]]
    assert result.exit_code == (0 if accepted else 4), result.output
    if accepted:
        (file,) = (tmp_path / "out").glob("*.onnx")
        metadata = {p.key: p.value for p in onnx.load(file).metadata_props}
        assert "float_nodes" in " ".join(metadata.values())


@pytest.fixture
def ctrl_c():
    """Python's own handler: a shell starts what it runs in the background without one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(
    ("number", "finished", "kept"),
    [(signal.SIGINT, 0, "the calibration"), (signal.SIGTERM, 1, "1 trial")],
)
def test_an_interruption_says_what_is_kept(
    run, tiny_model, tmp_path, monkeypatch, number, finished, kept
):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    real, before, left = Bench.measure, signal.getsignal(signal.SIGTERM), finished

    def measure(bench, options):
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), number)
        return real(bench, options)

    monkeypatch.setattr(Bench, "measure", measure)
    result = run(tiny_model, *STRICT, code=130)
    assert_facts(result.stderr, kept, tmp_path / "out", "--resume")
    assert list(folder.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_makes_another_search(
    run, tiny_checkpoint, tiny_network, tiny_statistics, found_shapes, tmp_path
):
    """Trials are compared with those of the same rounds, pictures, classes and trained steps."""
    steps = choose_steps(tiny_network, tiny_statistics, ranges="minmax")
    folder, file = tmp_path / "pictures", tmp_path / "qat.safetensors"
    shutil.copytree(found_shapes / "images", folder)
    calibration = ("--calibration", folder, *STRICT, "--max-trials", "1")

    def save(factor=1, labels=TINY_LABELS):
        notes = {name: [factor * float(v.scale), int(v.zero_point)] for name, v in steps.items()}
        state = {"notes": {NOTE_INT8_STEPS: notes}}
        replace(tiny_checkpoint, state=state, labels=labels).save(file)

    save()
    first = run(file, *calibration, code=4)
    assert "4 of the 4 calibration pictures" in first.output
    with refused(Ssd34Error, "rounds", "2", "3"):
        run(file, *calibration, "--resume", rounds=3)
    save(factor=2)
    with refused(Ssd34Error, "trained_steps"):
        run(file, *calibration, "--resume")
    save(labels=LabelSet(TINY_LABELS.names[::-1], TINY_LABELS.category_ids[::-1]))
    with refused(Ssd34Error, "classes_sha256"):
        run(file, *calibration, "--resume")
    save()
    for path in folder.iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path).convert("RGB"))).save(path)
    with refused(Ssd34Error, "calibration"):
        run(file, *calibration, "--resume")

    out = tmp_path / "out"
    (out / "trials.jsonl").unlink()
    before = CalibrationStatistics.load(out / "calibration.npz")
    run(file, *calibration, "--resume", code=4)
    after = CalibrationStatistics.load(out / "calibration.npz")
    assert after.source != before.source
    assert (after.histograms["image"].counts != before.histograms["image"].counts).any()


def test_a_checkpoint_and_its_raw_file_make_the_same_file(
    run, tiny_checkpoint, tiny_raw_model, tmp_path
):
    """A checkpoint goes by its suffix in either case."""
    checkpoint = tmp_path / "TINY.SAFETENSORS"
    tiny_checkpoint.save(checkpoint)
    for model in (checkpoint, tiny_raw_model):
        run(model, *EASY, output=model.stem, ranges="minmax")
    a, b = (tmp_path / name / f"{name}-12-int8.onnx" for name in ("TINY", "tiny-raw"))
    assert a.read_bytes() == b.read_bytes()


def test_limit_takes_the_first_pictures_and_settings_come_from_a_file_too(
    run, tiny_model, found_shapes, tmp_path
):
    config = tmp_path / "settings.yaml"
    config.write_text(
        "criterion: {max_drop: 0.9, min_speedup: 0.001}\nquantization: {ranges: [percentile]}\n"
        f"seen: {found_shapes / 'instances.json'}\n"
    )
    result = run(tiny_model, "--limit", 5, "--config", config)
    assert rows(tmp_path / "out")[1]["options"]["ranges"] == "percentile"
    subject = json.loads((tmp_path / "out" / "tiny-12-int8.json").read_text())["subject"]
    assert subject["pictures"] + subject["calibration_pictures"] == 5
    assert subject["seen_in_training"] == subject["pictures"] == 3
    assert "3 of 3 pictures" in result.output


@pytest.mark.parametrize(
    ("arguments", "settings", "facts"),
    [
        ((), {"ranges": "exact"}, ["exact"]),
        ((), {"ranges": "trained"}, ["ssd34 train --qat"]),
        (("--max-drop", "-1"), {}, ["-1"]),
        ((), {"float_nodes": "backbone.conv9"}, ["backbone.conv9"]),
        ((), {"float_nodes": ["nope"]}, ["nope", "backbone.conv1, ", " ... heads.conf."]),
        (("--calibration", "nowhere"), {}, ["nowhere"]),
        (("--config", "none.yaml"), {}, ["none.yaml"]),
    ],
)
def test_bad_input_writes_nothing(run, tiny_model, tmp_path, arguments, settings, facts):
    with refused(Ssd34Error, *facts):
        run(tiny_model, *arguments, **settings)
    assert not (tmp_path / "out").exists()


def changed_data(source, folder, change):
    """A copy of a data set with other values."""
    shutil.copytree(source, folder)
    values = json.loads((folder / "instances.json").read_text())
    change(values)
    (folder / "instances.json").write_text(json.dumps(values))
    return folder


def test_data_that_cannot_tell_a_loss(run, tiny_model, shapes, found_shapes, tmp_path):
    """AP 0 would make every loss look like none; and classes that the network does not know."""

    def shrink(values):
        for annotation in values["annotations"]:
            annotation["bbox"] = [0, 0, 1.5, 1.5]

    def rename(values):
        for category in values["categories"]:
            category["name"] = f"no {category['name']}"

    with refused(Ssd34Error, "no class in common"):
        run(tiny_model, data=changed_data(found_shapes, tmp_path / "others", rename))
    assert not (tmp_path / "out").exists()
    with refused(Ssd34Error, "AP 0"):
        run(tiny_model, data=changed_data(shapes, tmp_path / "nothing", shrink))


def test_pictures_that_cannot_be_read_are_named_and_not_counted(
    run, tiny_model, found_shapes, tmp_path
):
    folder = tmp_path / "damaged"
    shutil.copytree(found_shapes, folder)
    calibrating, measured = (s.file_name for s in open_dataset(str(folder)).samples[:2])
    for name in (calibrating, measured):
        (folder / "images" / name).write_bytes(b"no picture")
    result = run(tiny_model, *EASY, data=folder, ranges="minmax")
    assert result.output.count(measured) == result.output.count(calibrating) == 1
    proof = json.loads((tmp_path / "out" / "tiny-12-int8.json").read_text())
    assert proof["subject"]["calibration_pictures"] == 3


def test_classes_under_the_names_of_voc(run, tiny_model, found_shapes, tmp_path):
    """A model that says airplane, dog, tv, and data that say aeroplane, dog, tvmonitor."""
    model = onnx.load(tiny_model)
    names = LabelSet(("airplane", "dog", "tv"), TINY_LABELS.category_ids)
    for entry in model.metadata_props:
        if entry.key == METADATA_LABELS:
            entry.value = json.dumps(names.to_dict())
    onnx.save(model, tmp_path / "voc.onnx")

    def rename(values):
        for category, name in zip(
            values["categories"], ("aeroplane", "dog", "tvmonitor"), strict=True
        ):
            category["name"] = name

    folder = changed_data(found_shapes, tmp_path / "voc", rename)
    arguments, more = (tmp_path / "voc.onnx", *EASY), {"data": folder, "ranges": "minmax"}
    without = run(*arguments, output="without", code=1, catch=True, **more)
    assert_facts(without.stderr, "aeroplane, tvmonitor", "--coco-names")
    assert "AP 0" in str(without.exception)
    renamed = run(*arguments, "--coco-names", output="renamed", **more)
    assert "aeroplane" not in renamed.stderr
