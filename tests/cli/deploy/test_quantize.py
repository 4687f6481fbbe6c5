"""``ssd34 quantize`` on a tiny network, with what the float network finds as the truth."""

import json
import os
import shutil
import signal
import tempfile
from dataclasses import replace

import click
import numpy as np
import onnx
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from ssd34.cli.app import commands
from ssd34.cli.deploy.quantize import SETTINGS, quantize
from ssd34.core.contract import METADATA_LABELS, NOTE_INT8_STEPS
from ssd34.core.labels import LabelSet
from ssd34.datasets.open import open_dataset
from ssd34.deploy.graph.layers import network_of
from ssd34.deploy.int8.calibrate import Statistics, calibrate
from ssd34.deploy.int8.plan import value_steps
from ssd34.deploy.search.bench import Bench
from ssd34.deploy.search.config import QuantizeConfig
from ssd34.deploy.search.pictures import from_path
from ssd34.errors import Ssd34Error
from ssd34.files.atomic import sha256_of
from ssd34.runtime.detector import Detector
from ssd34.runtime.saturation import int8_saturates
from tests.conftest import TINY_LABELS


@pytest.fixture
def run(found_shapes, tmp_path):
    def quantize(model, *arguments, output="out", data=found_shapes, rounds=2, **quantization):
        config = tmp_path / "given.yaml"
        values = {"rounds": rounds, "calibration": {"pictures": 4}, "quantization": quantization}
        config.write_text(yaml.safe_dump(values))
        result = CliRunner().invoke(
            commands,
            [
                *("quantize", str(model), "--data", str(data), "--output", str(tmp_path / output)),
                *("--config", str(config), *map(str, arguments)),
            ],
        )
        if result.exception and not isinstance(result.exception, SystemExit | Ssd34Error):
            raise result.exception
        return result

    return quantize


EASY = ("--max-drop", "0.9", "--min-speedup", "0.001")


def rows(folder):
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]


def test_accepted_files_come_with_their_proof(run, tiny_model, tmp_path):
    result = run(tiny_model, "--format", "both", *EASY)
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    summary = json.loads((out / "quantize.json").read_text())
    for form, operator in (
        ("12-int8", "QLinearConv"),
        ("12-qdq", "DequantizeLinear"),
        ("13-qdq", "DequantizeLinear"),
    ):
        path = out / f"tiny-{form}.onnx"
        model = onnx.load(path)
        assert operator in {node.op_type for node in model.graph.node}
        assert [o.version for o in model.opset_import if not o.domain] == [int(form[:2])]
        proof = json.loads(path.with_suffix(".json").read_text())
        assert proof["model_sha256"] == sha256_of(path)
        assert proof["trial"]["accepted"] is True
        assert proof["trial"]["ap"] == pytest.approx(
            (1 - proof["trial"]["drop"]) * proof["trial"]["float_ap"]
        )
        assert summary["forms"][form]["file"] == path.name
        Detector.load(path).detect(np.zeros((50, 60, 3), np.uint8))
    assert (out / "trials.png").read_bytes().startswith(b"\x89PNG")
    assert [row["number"] for row in rows(out)[1:]] == [1, 2, 3]
    assert proof["subject"]["pictures"] == 8
    assert proof["subject"]["calibration_pictures"] == 4
    exact = "exact (no VNNI) where weights have 8 bits"
    assert proof["subject"]["int8"] == (exact if int8_saturates() else "fast")


def test_nothing_acceptable_publishes_nothing(run, tiny_model, tmp_path):
    result = run(tiny_model, "--max-drop", "0.9", "--min-speedup", "99", ranges="minmax")
    assert result.exit_code == 4
    assert "nothing published" in result.output
    assert "most accurate: trial 1" in result.output
    out = tmp_path / "out"
    assert not list(out.glob("*.onnx"))
    assert json.loads((out / "quantize.json").read_text())["forms"]["12-int8"]["best_trial"] == 1


def test_a_file_that_does_not_pass_any_more_is_withdrawn(run, tiny_model, tmp_path):
    out = tmp_path / "out"
    once = ("--max-trials", "1", "--max-drop", "0.9")
    assert run(tiny_model, *once, "--min-speedup", "0.001", ranges="minmax").exit_code == 0
    published = [out / "tiny-12-int8.onnx", out / "tiny-12-int8.json"]
    assert all(path.exists() for path in published)
    foreign = out / "tiny-12-qdq.onnx"
    foreign.write_bytes(b"somebody's")
    again = run(tiny_model, *once, "--min-speedup", "99", "--format", "both", "--resume",
                ranges="minmax")  # fmt: skip
    assert again.exit_code == 4
    assert not any(path.exists() for path in published)
    assert foreign.exists()


def test_a_file_that_passes_stays_where_the_budget_ends_before_it(run, tiny_model, tmp_path):
    """Another percentile makes another trial, for which there is no budget any more."""
    out = tmp_path / "out"
    once = ("--max-trials", "1", "--max-drop", "0.9", "--min-speedup", "0.001")
    assert run(tiny_model, *once, ranges="percentile").exit_code == 0
    published = [out / "tiny-12-int8.onnx", out / "tiny-12-int8.json"]
    before = [path.read_bytes() for path in published]
    again = run(tiny_model, *once, "--resume", ranges="percentile", percentile=99.9)
    assert again.exit_code == 0
    assert [path.read_bytes() for path in published] == before
    assert "kept from before, as it passes the gate; now its search did not begin" in again.output


def test_a_file_of_a_kind_not_sought_now_is_judged_too(run, tiny_model, tmp_path):
    """It is kept where a trial of its kind passes, and removed where none does."""
    out = tmp_path / "out"

    def search(speedup, *arguments):
        once = ("--max-trials", "3", "--max-drop", "0.9", "--min-speedup", speedup)
        return run(tiny_model, *once, *arguments, ranges="minmax")

    assert search("0.001", "--format", "both").exit_code == 0
    names = ["tiny-12-qdq", "tiny-13-qdq"]
    others = [out / f"{name}{suffix}" for name in names for suffix in (".onnx", ".json")]
    before = [path.read_bytes() for path in others]
    again = search("0.002", "--resume")
    assert again.exit_code == 0 and "removed" not in again.stderr
    assert [path.read_bytes() for path in others] == before

    # As if somebody had put another file there: its proof is not about it.
    others[2].write_bytes(b"somebody's")
    strict = search("99", "--resume")
    assert strict.exit_code == 4
    assert [path.exists() for path in others] == [False, False, True, True]
    gone = f"{out / 'tiny-12-qdq.onnx'}: removed with its proof: trial 2 now fails on speed"
    assert gone in strict.stderr


def test_layers_go_back_to_float_until_the_gate_is_passed(run, tiny_model, tmp_path):
    """With no loss allowed the search has to leave int8 step by step."""
    result = run(
        tiny_model, "--max-drop", "0", "--min-speedup", "0.001", "--max-trials", "9",
        ranges="minmax",
    )  # fmt: skip
    trials = rows(tmp_path / "out")[1:]
    in_float = [len(trial["options"]["float_nodes"]) for trial in trials]
    if trials[0]["drop"] > 0:
        assert in_float[:3] == [0, 1, 2]
    accepted = [trial for trial in trials if trial["accepted"]]
    assert result.exit_code == (0 if accepted else 4), result.output
    if accepted:
        (file,) = (tmp_path / "out").glob("*.onnx")
        metadata = {p.key: p.value for p in onnx.load(file).metadata_props}
        assert "float_nodes" in " ".join(metadata.values())


def test_an_interrupted_search_goes_on(run, tiny_model, tmp_path):
    strict = ("--max-drop", "0.9", "--min-speedup", "99")
    out = tmp_path / "out"
    assert run(tiny_model, *strict, "--max-trials", "1").exit_code == 4
    refused = run(tiny_model, *strict)
    assert isinstance(refused.exception, Ssd34Error)
    assert "--resume" in str(refused.exception)
    first = rows(out)[1]
    assert run(tiny_model, *strict, "--resume", "--max-trials", "2").exit_code == 4
    assert rows(out)[1] == first
    assert len(rows(out)) == 3
    other = run(tiny_model, *strict, "--resume", rounds=3)
    assert "rounds was 2, now 3" in str(other.exception)


@pytest.fixture
def ctrl_c():
    """Python's own handler: a shell starts what it runs in the background without one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_says_what_is_kept(run, tiny_model, tmp_path, monkeypatch, signal_number):
    strict = ("--max-drop", "0.9", "--min-speedup", "99")
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    real, before = Bench.measure, signal.getsignal(signal.SIGTERM)
    for finished, kept in ((0, "the calibration"), (1, "1 trial")):
        left = finished

        def measure(bench, options):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal_number)
            return real(bench, options)

        monkeypatch.setattr(Bench, "measure", measure)
        result = run(tiny_model, *strict, "--resume")
        assert result.exit_code == 130
        assert f"{kept} kept in {tmp_path / 'out'}; go on with --resume" in result.stderr
        assert list(folder.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_calibration_pictures_of_the_same_name_are_another_search(
    run, tiny_model, found_shapes, tmp_path
):
    folder = tmp_path / "pictures"
    shutil.copytree(found_shapes / "images", folder)
    calibration = ("--calibration", folder, "--max-drop", "0.9", "--min-speedup", "99")
    first = run(tiny_model, *calibration, "--max-trials", "1")
    assert first.exit_code == 4
    assert "4 of the 4 calibration pictures are also measured on" in first.output
    for path in folder.iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path).convert("RGB"))).save(path)
    again = run(tiny_model, *calibration, "--resume")
    assert "cannot be compared" in str(again.exception)
    out = tmp_path / "out"
    (out / "trials.jsonl").unlink()
    before = Statistics.load(out / "calibration.npz")
    assert run(tiny_model, *calibration, "--resume", "--max-trials", "1").exit_code == 4
    after = Statistics.load(out / "calibration.npz")
    assert after.source != before.source
    assert (after.histograms["image"].counts != before.histograms["image"].counts).any()


def test_a_checkpoint_and_its_raw_file_make_the_same_file(
    run, tiny_checkpoint, tiny_raw_model, tmp_path
):
    checkpoint = tmp_path / "tiny-raw.safetensors"
    tiny_checkpoint.save(checkpoint)
    for model, output in ((checkpoint, "a"), (tiny_raw_model, "b")):
        assert run(model, *EASY, output=output).exit_code == 0
    a, b = (tmp_path / name / "tiny-raw-12-int8.onnx" for name in "ab")
    assert a.read_bytes() == b.read_bytes()


def test_a_checkpoint_goes_by_its_suffix_in_either_case(run, tiny_checkpoint, tmp_path):
    tiny_checkpoint.save(tmp_path / "TINY.SAFETENSORS")
    assert run(tmp_path / "TINY.SAFETENSORS", *EASY, ranges="minmax").exit_code == 0
    assert (tmp_path / "out" / "TINY-12-int8.onnx").exists()


def test_a_file_of_torchs_is_to_be_converted_first(run, tmp_path):
    (tmp_path / "ssd.pth").write_bytes(b"torch")
    assert "with: ssd34 convert" in str(run(tmp_path / "ssd.pth").exception)
    assert not (tmp_path / "out").exists()


def test_limit_takes_the_first_pictures(run, tiny_model, tmp_path):
    result = run(tiny_model, "--limit", 5, *EASY, ranges="minmax")
    assert result.exit_code == 0, result.output
    subject = json.loads((tmp_path / "out" / "tiny-12-int8.json").read_text())["subject"]
    assert (subject["pictures"], subject["calibration_pictures"]) == (3, 2)


def test_settings_come_from_a_file_too(run, tiny_model, tmp_path):
    config = tmp_path / "settings.yaml"
    config.write_text(
        "criterion: {max_drop: 0.9, min_speedup: 0.001}\nquantization: {ranges: [mse]}\n"
    )
    assert run(tiny_model, "--config", config).exit_code == 0
    assert rows(tmp_path / "out")[1]["options"]["ranges"] == "mse"


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((), {"ranges": "exact"}, "quantization.ranges"),
        ((), {"ranges": "trained"}, "train it with: ssd34 train --qat"),
        (("--max-drop", "-1"), {}, "criterion.max_drop"),
        ((), {"float_nodes": "backbone.conv9"}, "backbone.conv9"),
        ((), {"float_nodes": ["nope"]}, "layers are backbone.conv1, "),
        ((), {"float_nodes": ["nope"]}, " ... heads.conf."),
        (("--calibration", "nowhere"), {}, "nowhere"),
        (("--config", "none.yaml"), {}, "no such file"),
        (("--ranges", "mse"), {}, "quantization.ranges"),
        (("--drop=absolute",), {}, "criterion.drop"),
        (("--pictures", "3"), {}, "calibration.pictures"),
        (("--full-range",), {}, "quantization.reduce_range"),
        (("--float-node", "x"), {}, "quantization.float_nodes"),
        (("--input", "uint8"), {}, "quantization.image_input"),
        (("--rounds", "3"), {}, "rounds"),
        (("--exit", "best"), {}, "search.exit"),
    ],
)
def test_bad_input_writes_nothing(run, tiny_model, tmp_path, arguments, settings, message):
    result = run(tiny_model, *arguments, **settings)
    assert isinstance(result.exception, Ssd34Error)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_former_options_name_settings_that_there_are():
    assert len([p for p in quantize.params if isinstance(p, click.Option)]) <= 14
    for setting in SETTINGS.values():
        value = QuantizeConfig()
        for name in setting.split("."):
            value = getattr(value, name)


def test_a_network_that_finds_nothing_cannot_lose_anything(tiny_model, shapes, tmp_path):
    """AP 0 would make every loss look like none."""
    folder = tmp_path / "nothing"
    shutil.copytree(shapes, folder)
    values = json.loads((folder / "instances.json").read_text())
    for annotation in values["annotations"]:
        annotation["bbox"] = [0, 0, 1.5, 1.5]
    (folder / "instances.json").write_text(json.dumps(values))
    result = CliRunner().invoke(
        commands,
        ["quantize", str(tiny_model), "--data", str(folder), "--output", str(tmp_path / "out")],
    )
    assert "AP 0" in str(result.exception)


def test_pictures_that_cannot_be_read_are_named_and_not_counted(
    run, tiny_model, found_shapes, tmp_path
):
    folder = tmp_path / "damaged"
    shutil.copytree(found_shapes, folder)
    calibrating, measured = (s.file_name for s in open_dataset(str(folder)).samples[:2])
    for name in (calibrating, measured):
        (folder / "images" / name).write_bytes(b"no picture")
    result = run(tiny_model, *EASY, data=folder, ranges="minmax")
    assert result.exit_code == 0
    assert result.output.count(f"counts as missed: {measured}") == 1
    assert result.output.count(f"left out {calibrating}") == 1
    proof = json.loads((tmp_path / "out" / "tiny-12-int8.json").read_text())
    assert proof["subject"]["calibration_pictures"] == 3


def test_data_of_other_classes_is_refused_before_the_work(run, tiny_model, found_shapes, tmp_path):
    folder = tmp_path / "others"
    shutil.copytree(found_shapes, folder)
    values = json.loads((folder / "instances.json").read_text())
    for category in values["categories"]:
        category["name"] = f"no {category['name']}"
    (folder / "instances.json").write_text(json.dumps(values))
    result = run(tiny_model, data=folder)
    assert "no class in common" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_classes_under_the_names_of_voc(run, tiny_model, found_shapes, tmp_path):
    """A model that says airplane, dog, tv, and data that say aeroplane, dog, tvmonitor."""
    model = onnx.load(tiny_model)
    names = LabelSet(("airplane", "dog", "tv"), TINY_LABELS.category_ids)
    for entry in model.metadata_props:
        if entry.key == METADATA_LABELS:
            entry.value = json.dumps(names.to_dict())
    onnx.save(model, tmp_path / "voc.onnx")
    folder = tmp_path / "voc"
    shutil.copytree(found_shapes, folder)
    values = json.loads((folder / "instances.json").read_text())
    for category, name in zip(values["categories"], ("aeroplane", "dog", "tvmonitor"), strict=True):
        category["name"] = name
    (folder / "instances.json").write_text(json.dumps(values))
    without = run(tmp_path / "voc.onnx", *EASY, data=folder, output="without", ranges="minmax")
    assert "does not know aeroplane, tvmonitor, which count as missed" in without.stderr
    assert "--coco-names" in without.stderr
    renamed = run(tmp_path / "voc.onnx", *EASY, "--coco-names", data=folder, output="renamed",
                  ranges="minmax")  # fmt: skip
    assert renamed.exit_code == 0 and "does not know" not in renamed.stderr


def test_trials_of_other_trained_steps_are_another_search(
    run, tiny_checkpoint, found_shapes, tmp_path
):
    """Two files of quantization-aware training may differ in nothing but their steps."""
    network = network_of(tiny_checkpoint)
    pictures = from_path(str(found_shapes), pictures=2)
    steps = value_steps(network, calibrate(network, pictures.read()), ranges="minmax")
    noted = {name: [float(v.scale), int(v.zero_point)] for name, v in steps.items()}
    once = ("--max-drop", "0.9", "--min-speedup", "99", "--max-trials", "1")
    for factor, arguments in ((1, once), (2, (*once, "--resume"))):
        notes = {name: [factor * scale, zero] for name, (scale, zero) in noted.items()}
        checkpoint = replace(tiny_checkpoint, state={"notes": {NOTE_INT8_STEPS: notes}})
        checkpoint.save(tmp_path / "qat.safetensors")
        result = run(tmp_path / "qat.safetensors", *arguments)
    assert "cannot be compared with this search: trained_steps was" in str(result.exception)


def test_an_int8_file_is_not_quantized_again(run, tiny_model, tmp_path):
    assert run(tiny_model, *EASY).exit_code == 0
    again = run(tmp_path / "out" / "tiny-12-int8.onnx", *EASY, output="again")
    assert "quantized already" in str(again.exception)


def test_trials_of_other_classes_are_another_search(run, tiny_model, tmp_path):
    """The same weights under other names find other things."""
    once = ("--max-drop", "0.9", "--min-speedup", "99", "--max-trials", "1")
    model, path = onnx.load(tiny_model), tmp_path / "tiny.onnx"
    onnx.save(model, path)
    assert run(path, *once).exit_code == 4
    for entry in model.metadata_props:
        if entry.key == METADATA_LABELS:
            names = LabelSet(TINY_LABELS.names[::-1], TINY_LABELS.category_ids[::-1])
            entry.value = json.dumps(names.to_dict())
    onnx.save(model, path)
    again = run(path, *once, "--resume")
    assert "classes_sha256" in str(again.exception)
