import dataclasses
import json
import re

import pytest
import yaml

from ssd34.deploy.search import config as quantize_config
from ssd34.deploy.search.config import QuantizeConfig, read_config
from ssd34.errors import OptionError
from tests.conftest import ROOT
from tests.support.refusals import refused

EVERYTHING = """
calibration:
  data: pictures
  pictures: 64
quantization:
  forms: [12-int8, 13-qdq]
  ranges: mse
  percentile: 99.9
  bias_correction: false
  reduce_range: true
  float_nodes: [backbone.conv1]
  image_input: uint8
  score_threshold: 0.01
criterion:
  drop: absolute
  max_drop: 0.01
  min_speedup: 2
search:
  max_trials: 5
  timeout: 600
  exit: best
rounds: 12
seen: train.zip
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "quantize.yaml"
        path.write_text(text)
        return path

    return write


def test_every_setting_can_be_given(file):
    found, default = read_config(file(EVERYTHING)).to_dict(), QuantizeConfig().to_dict()
    expected = yaml.safe_load(EVERYTHING)
    expected["quantization"]["ranges"], expected["seen"] = ["mse"], ["train.zip"]
    assert json.loads(json.dumps(found)) == expected
    assert all(found[name] != default[name] for name in default)


def test_what_is_left_out_keeps_its_default(file):
    assert read_config(file("")) == QuantizeConfig()
    assert read_config(file("search:\n")) == QuantizeConfig()
    config = read_config(file("criterion: {max_drop: 0.01}"))
    assert config == dataclasses.replace(
        QuantizeConfig(), criterion=dataclasses.replace(QuantizeConfig().criterion, max_drop=0.01)
    )


def test_candidates_are_the_ranges_in_order(file):
    quantization = read_config(file(EVERYTHING.replace("mse", "[mse, minmax]"))).quantization
    for form, expected in (("12-int8", ("qoperator", 12)), ("13-qdq", ("qdq", 13))):
        candidates = quantization.candidates(form)
        assert [c.ranges for c in candidates] == ["mse", "minmax"]
        for c in candidates:
            assert (c.form, c.opset) == expected
            assert c.float_nodes == ("backbone.conv1",)
            assert c.reduce_range
            assert not c.bias_correction


@pytest.mark.parametrize("saturates", [True, False])
def test_weights_are_narrow_where_this_processor_saturates(file, saturates, monkeypatch):
    monkeypatch.setattr(quantize_config, "int8_saturates", lambda: saturates)
    for text, expected in (("", saturates), ("true", True), ("false", False)):
        config = read_config(file(f"quantization: {{reduce_range: {text}}}"))
        assert config.quantization.candidates("13-qdq")[0].reduce_range == expected


@pytest.mark.parametrize(
    ("text", "facts"),
    [("rounds: ten", ["rounds", "ten"]), ("rounds: 0", ["rounds"]), ("rounds: true", ["rounds"]),
     ("search: {max_trials: 1.5}", ["search.max_trials", "1.5"]),
     ("search: {exit: [first]}", ["search.exit"]),
     ("search: {trials: 3}", ["search.trials", "max_trials"]), ("tuning: {}", ["tuning"]),
     ("quantization: {ranges: []}", ["ranges"]), ("quantization: {ranges: [3]}", ["ranges"]),
     ("quantization: {ranges: [exact]}", ["exact"]),
     ("quantization: {forms: [14-int8]}", ["14-int8"]),
     ("quantization: {image_input: int8}", ["image_input"]),
     ("quantization: {score_threshold: 1.5}", ["score_threshold", "1.5"]), ("seen: [3]", ["seen"]),
     ("quantization: {percentile: 101}", ["percentile"]),
     ("quantization: {bias_correction: 1}", ["bias_correction"]),
     ("calibration: {pictures: 0}", ["picture", "0"]), ("calibration: {data: ''}", ["data"]),
     ("criterion: {max_drop: .nan}", ["max", "nan"]), ("criterion: 3", ["criterion"]),
     ("criterion: {drop: \"\\uD800\"}", ["criterion.drop", "ud800"]),
     ("[1, 2]", []), ("a: [", []), ("!!python/object/apply:os.getcwd []", [])],
)  # fmt: skip
def test_what_is_wrong_is_named(file, text, facts):
    path = file(text)
    with refused(OptionError, path, *facts):
        read_config(path)


def test_a_hostile_file_is_refused_in_one_short_line(file):
    """Aliases of aliases, which are small in memory and huge in print; and deep nesting."""
    laughs = "a0: &a0 [x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
    )
    for text in (laughs + "rounds: *a29", f"rounds: *a\n{laughs}", "[" * 500,
                 "rounds: 2001-99-99", "rounds: " + "[9, " * 90 + "]" * 90):  # fmt: skip
        with pytest.raises(OptionError) as error:
            read_config(file(text))
        assert len(str(error.value)) < 500


def test_the_documented_file_can_be_read(file):
    page = (ROOT / "docs" / "quantization.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    config = read_config(file(text))
    assert config.search.timeout == 7200
    assert config.quantization.candidates("13-qdq")
    named = {name for section in yaml.safe_load(text).values() if isinstance(section, dict)
             for name in section}  # fmt: skip
    known = QuantizeConfig().to_dict()
    assert named == {key for value in known.values() if isinstance(value, dict) for key in value}


def test_a_missing_or_huge_file_is_refused(tmp_path):
    (tmp_path / "big.yaml").write_bytes(b"#" * 2_000_000)
    for name in ("none.yaml", "big.yaml"):
        with refused(OptionError, tmp_path / name):
            read_config(tmp_path / name)
