"""What the tests of the readers ask of a data set."""

import pytest

from ssd34.datasets.open import open_dataset
from ssd34.errors import DatasetError


def only(dataset):
    [sample] = dataset.samples
    return sample


def reasons(dataset):
    assert all(len(str(problem).splitlines()) == 1 for problem in dataset.problems)
    return [str(problem) for problem in dataset.problems]


def refused(path):
    with pytest.raises(DatasetError) as caught:
        open_dataset(path)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)
