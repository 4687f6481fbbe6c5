import json
import math

import numpy as np
import pytest

from ssd34.core.contract import ScoreCalibration
from ssd34.errors import OptionError


def test_only_the_background_moves_in_logits_and_in_biases():
    logits = np.arange(12, dtype=np.float32).reshape(3, 4)
    moved = ScoreCalibration(background_offset=1.5).apply(logits)
    assert (moved - logits).tolist() == [[1.5] * 4, [0] * 4, [0] * 4]
    bias = np.random.default_rng(0).normal(size=5 * 6).astype(np.float32)
    calibration = ScoreCalibration(background_offset=-0.75)
    folded = calibration.fold(bias, channels=5)
    # Ordered by class, then by box shape: background's rows are the first six.
    np.testing.assert_allclose(folded[:6], bias[:6] - 0.75, atol=1e-6)
    np.testing.assert_array_equal(folded[6:], bias[6:])
    np.testing.assert_allclose(calibration.unfold(folded, channels=5), bias, atol=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", None, True])
def test_an_offset_is_a_finite_number(value):
    with pytest.raises(OptionError, match="background_offset"):
        ScoreCalibration(background_offset=value)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "3", "null", '{"background_offset": NaN}', '{"background_offset": "1"}'],
)
def test_broken_metadata(text):
    with pytest.raises(OptionError):
        ScoreCalibration.in_metadata({"key": text}, "key")


def test_metadata_without_it_and_with_it():
    calibration = ScoreCalibration(background_offset=1.5)
    assert ScoreCalibration.in_metadata({}, "key") is None
    assert ScoreCalibration.in_metadata({"key": calibration.to_json()}, "key") == calibration
    assert json.loads(calibration.to_json()) == {"background_offset": 1.5}
