import json

import pytest

from ssd34.core.spec import SPECS, ExtraBlock, ModelSpec, named_spec
from ssd34.errors import OptionError


@pytest.mark.parametrize(
    ("name", "sides", "boxes"),
    [("ssd300-resnet34", (38, 19, 10, 5, 3, 1), 8732),
     ("ssd300-resnet18", (38, 19, 10, 5, 3, 1), 8732),
     ("ssd1200-resnet34", (50, 25, 13, 7, 3, 3), 15130),
     ("ssd1200-resnet18", (50, 25, 13, 7, 3, 3), 15130)],
)  # fmt: skip
def test_published_feature_maps(name, sides, boxes):
    spec = named_spec(name)
    assert spec.feature_sizes == sides
    assert spec.num_default_boxes == boxes
    assert spec.boxes_per_cell == (4, 6, 6, 6, 4, 4)
    assert spec.num_channels == 81


def test_large_scales_are_the_small_ones_times_four():
    small, large = named_spec("ssd300-resnet34"), named_spec("ssd1200-resnet34")
    assert large.scales == tuple(int(s * 1200 / 300) for s in small.scales)
    sides = (50, 25, 13, 7, 3, 3)
    assert large.steps == tuple(1200 // side for side in sides)


@pytest.mark.parametrize("name", SPECS)
def test_json_round_trip(name):
    spec = named_spec(name).replace(head_norm=True, num_classes=3)
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_smaller_input_keeps_shares_and_drops_vanished_levels():
    spec = named_spec("ssd300-resnet18")
    small = spec.at_size(200)
    assert small.feature_sizes == (25, 13, 7, 4, 2)
    # The documentation says from which size on all six are there.
    assert len(spec.at_size(256).feature_sizes) == 5
    assert len(spec.at_size(257).feature_sizes) == 6
    assert small.extra_blocks == spec.extra_blocks[:4]
    for level in range(5):
        assert small.scales[level] / 200 == pytest.approx(spec.scales[level] / 300)
    assert spec.at_size(300) is spec


def test_bad_specs_are_refused():
    spec = named_spec("ssd300-resnet34")
    with pytest.raises(OptionError, match=r"unknown spec 'ssd512'.*ssd300-resnet34"):
        named_spec("ssd512")
    with pytest.raises(OptionError, match="unknown backbone 'vgg16'"):
        spec.replace(backbone="vgg16")
    with pytest.raises(OptionError, match="one scale"):
        spec.replace(scales=spec.scales[:-1])
    with pytest.raises(OptionError, match="extra blocks"):
        spec.replace(extra_blocks=(ExtraBlock(1, 1, 1, 1),))
    with pytest.raises(OptionError, match="num_classes >= 1"):
        spec.replace(num_classes=0)
    with pytest.raises(OptionError, match="no field 'colour'"):
        ModelSpec.from_dict({**spec.to_dict(), "colour": 1})
    with pytest.raises(OptionError, match="not a model spec"):
        ModelSpec.from_dict({k: v for k, v in spec.to_dict().items() if k != "scales"})
