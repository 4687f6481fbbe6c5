import json

import pytest
from PIL import Image

from ssd34.deploy.int8.plan import QuantizeOptions
from ssd34.deploy.search.gate import Criterion, Measurement, judge, plot_trials
from ssd34.deploy.search.log import TrialLog
from ssd34.errors import OptionError
from ssd34.runtime.timing import SpeedUp
from tests.support.refusals import refused

SUBJECT = {"network": "abc", "pictures": "def"}


def trial(number, *, ap=0.1, ranges="minmax"):
    measured = Measurement(
        ap=ap, float_ap=0.1, ms=40.0, float_ms=150.0, seconds=12.5, file_bytes=123,
        speedup=SpeedUp(3.7, 3.6, 3.8, 0.95),
    )  # fmt: skip
    options = QuantizeOptions(ranges=ranges, float_nodes=("backbone.conv1",))
    return judge(measured, options, number=number, criterion=Criterion())


def log(path, *, resume=False, subject=SUBJECT, criterion=None):
    return TrialLog(path, subject=subject, criterion=criterion or Criterion(), resume=resume)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trials.jsonl"


@pytest.fixture
def two(path):
    first = log(path)
    trials = (trial(1), trial(2, ranges="mse"))
    for each in trials:
        first.add(each)
    return trials


def test_trials_come_back(path, two):
    assert log(path, resume=True).earlier == two
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0]["subject"] == SUBJECT
    assert [row["number"] for row in rows[1:]] == [1, 2]
    assert rows[1]["accepted"] is True


def test_another_criterion_judges_anew(path, two):
    stricter = log(path, resume=True, criterion=Criterion(min_speedup=3.7))
    assert [t.accepted for t in stricter.earlier] == [False, False]
    assert [t.accepted for t in two] == [True, True]


@pytest.mark.usefixtures("two")
def test_earlier_trials_are_not_overwritten_by_accident(path):
    before = path.read_bytes()
    with refused(OptionError, path, "--resume"):
        log(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kept", [1, 10, 200, -2, -1])
def test_a_trial_that_was_cut_off_is_left_out(path, two, kept):
    lines = path.read_text().splitlines()
    last = lines[2][:kept]
    path.write_text("\n".join([*lines[:2], last]))
    again = log(path, resume=True)
    assert again.earlier == two[:1]
    again.add(two[1])
    assert log(path, resume=True).earlier == two


@pytest.mark.usefixtures("two")
def test_trials_of_something_else_are_refused(path):
    with refused(OptionError, "network", "abc", "xyz"):
        log(path, resume=True, subject={**SUBJECT, "network": "xyz"})


@pytest.mark.parametrize(
    "data", [b"", b"{}\n", b"not json\n", b'{"format": "x", "subject": {}}\n', b"[]\n", b"\xff\n"]
)
def test_another_file_is_refused(path, data):
    path.write_bytes(data)
    with refused(OptionError, path):
        log(path, resume=True)
    assert path.read_bytes() == data


def test_a_search_that_failed_before_its_first_trial_leaves_nothing(path):
    log(path)
    assert not path.exists()
    log(path, subject={**SUBJECT, "pictures": "others"}).add(trial(1))
    assert log(path, resume=True, subject={**SUBJECT, "pictures": "others"}).earlier == (trial(1),)


@pytest.mark.parametrize(
    "change",
    [
        {"number": 3, "options": {}},
        {"ap": "high"},
        {"speedup": 3},
        {"options": {"x": 1}},
        {"ms": None},
    ],
)
def test_a_broken_line_is_refused(path, two, change):
    row = change if "number" in change else {**two[0].to_dict(), **change}
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    with refused(OptionError, path):
        log(path, resume=True)


def test_a_name_is_no_formula(tmp_path):
    """A file may be called so, and the text between dollars would be read as mathematics."""
    path = tmp_path / "trials.png"
    plot_trials([trial(1)], path, criterion=Criterion(), title="$\\broken{$ on $_$ 犬\udcff")
    with Image.open(path) as image:
        assert image.size == (960, 600)
