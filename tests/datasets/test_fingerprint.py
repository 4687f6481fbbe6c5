import dataclasses

import numpy as np
import pytest

from ssd34.core.labels import LabelSet
from ssd34.datasets.dataset import fingerprint
from ssd34.datasets.open import open_dataset
from tests.conftest import shapes_dataset


@pytest.fixture(scope="module")
def dataset(shapes):
    return open_dataset(str(shapes))


def changed(dataset, **changes):
    first = dataclasses.replace(dataset.samples[0], **changes)
    return dataclasses.replace(dataset, samples=(first, *dataset.samples[1:]))


def test_the_same_data_anywhere_has_the_same_fingerprint(dataset, tmp_path):
    again = open_dataset(str(shapes_dataset(tmp_path / "copy", pictures=12)))
    assert fingerprint(again) == fingerprint(dataset)
    assert len(fingerprint(dataset)) == 64


@pytest.mark.parametrize(
    "change",
    [lambda d: dataclasses.replace(d, samples=d.samples[1:]),
     lambda d: dataclasses.replace(d, samples=(d.samples[1], d.samples[0], *d.samples[2:])),
     lambda d: dataclasses.replace(d, labels=LabelSet(("a", "b", "c"), d.labels.category_ids)),
     lambda d: changed(d, file_name="other.png"), lambda d: changed(d, image_id=99),
     lambda d: changed(d, width=1000),
     lambda d: changed(d, boxes=d.samples[0].boxes + np.float32(0.25)),
     lambda d: changed(d, labels=d.samples[0].labels % 3 + 1),
     lambda d: changed(d, areas=d.samples[0].areas + 1),
     lambda d: changed(d, crowd=~d.samples[0].crowd),
     lambda d: changed(d, difficult=~d.samples[0].difficult)],
)  # fmt: skip
def test_every_change_shows(dataset, change):
    assert fingerprint(change(dataset)) != fingerprint(dataset)
