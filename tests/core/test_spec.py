import json

import pytest

from ssd34.core.spec import SPECS, ExtraBlock, ModelSpec, named_spec
from ssd34.errors import OptionError


@pytest.mark.parametrize("backbone", ["resnet34", "resnet18"])
@pytest.mark.parametrize(
    ("network", "sides", "boxes"),
    [("ssd300", (38, 19, 10, 5, 3, 1), 8732), ("ssd1200", (50, 25, 13, 7, 3, 3), 15130)],
)
def test_published_feature_maps(network, backbone, sides, boxes):
    spec = named_spec(f"{network}-{backbone}")
    assert spec.feature_sizes == sides and spec.num_default_boxes == boxes
    assert spec.boxes_per_cell == (4, 6, 6, 6, 4, 4) and spec.num_channels == 81


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


@pytest.mark.parametrize(
    ("make", "fact"),
    [(lambda _: named_spec("ssd512"), "'ssd512'.*ssd300-resnet34"),
     (lambda spec: spec.replace(backbone="vgg16"), "'vgg16'"),
     (lambda spec: spec.replace(scales=spec.scales[:-1]), "scale"),
     (lambda spec: spec.replace(extra_blocks=(ExtraBlock(1, 1, 1, 1),)), "extra blocks"),
     (lambda spec: spec.replace(num_classes=0), "num_classes"),
     (lambda spec: spec.replace(head_stride=1.0), "head_stride"),
     (lambda spec: spec.replace(head_stride=True), "head_stride.*True"),
     (lambda spec: spec.replace(scales=(0, *spec.scales[1:])), "scales"),
     (lambda spec: ModelSpec.from_dict({**spec.to_dict(), "colour": 1}), "'colour'"),
     (lambda spec: ModelSpec.from_dict({"name": spec.name}), "spec")],
    ids=range(10),
)  # fmt: skip
def test_bad_specs_are_refused(make, fact):
    with pytest.raises(OptionError, match=fact):
        make(named_spec("ssd300-resnet34"))
