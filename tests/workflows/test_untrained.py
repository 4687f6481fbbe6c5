import dataclasses
import re

import pytest

from ssd34.core.spec import named_spec
from ssd34.train.settings.options import TrainOptions
from ssd34.workflows.training.new_run import untrained_levels

SMALL = TrainOptions(small_size=200, small_share=1.0)


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        (
            "ssd300-resnet34",
            {},
            r"5 of its 6 levels: .* are never trained; give --set small_size=257 ",
        ),
        ("ssd300-resnet34", {"small_share": 0.6}, r"are not trained in the first 60% of the run"),
        (
            "ssd1200-resnet34",
            {"small_size": 384},
            r"5 of its 6 .* give --set small_size=385 or more",
        ),
    ],
)
def test_levels_that_vanish_at_the_small_size_are_told_of(spec, changes, message):
    told = untrained_levels(named_spec(spec), dataclasses.replace(SMALL, **changes))
    assert told is not None
    assert re.search(message, told)


@pytest.mark.parametrize(
    "changes",
    [
        {"small_size": None},
        {"small_share": 0.0},
        {"small_size": 257},
    ],
)
def test_where_every_level_is_trained_there_is_nothing_to_tell(changes):
    options = dataclasses.replace(SMALL, **changes)
    assert untrained_levels(named_spec("ssd300-resnet34"), options) is None
