"""``ssd34 data split``."""

import json

import pytest

from ssd34.datasets.open import open_dataset
from tests.conftest import EXAMPLES
from tests.support.cli import attempt


@pytest.mark.parametrize("form", [None, "yolo"])
def test_a_data_set_is_divided_and_both_parts_can_be_opened(tmp_path, shapes, form):
    made, facts = tmp_path / "made", tmp_path / "facts.json"
    to = ("--to", form) if form else ()
    result = attempt("data", "split", shapes, made, "--val", "0.25", "--json", facts, *to)
    assert result.exit_code == 0, result.stderr
    train, val = (open_dataset(f"{made}@{name}") for name in ("train", "val"))
    whole = open_dataset(shapes)
    assert len(train) + len(val) == len(whole)
    assert len(val) == pytest.approx(len(whole) / 4, abs=1)
    values = json.loads(facts.read_text())
    assert values["splits"]["val"]["pictures"] == len(val)
    assert sum(values["boxes_of_class"]["val"].values()) == sum(len(s.boxes) for s in val.samples)


def test_classes_that_a_part_lacks_are_named(tmp_path):
    result = attempt(
        "data", "split", EXAMPLES / "instances.json", tmp_path / "made", "--val", "0.4"
    )
    assert result.exit_code == 0, result.stderr
    assert "cat" in result.stderr


def test_an_existing_folder_is_refused(tmp_path, shapes):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "x").write_text("kept")
    result = attempt("data", "split", shapes, tmp_path / "made")
    assert result.exit_code != 0
    assert (tmp_path / "made" / "x").read_text() == "kept"
