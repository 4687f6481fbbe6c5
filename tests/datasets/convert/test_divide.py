"""A data set divided into parts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from ssd34.core.labels import LabelSet
from ssd34.datasets.convert.divide import Shares, divide, group_scenes
from ssd34.datasets.dataset import Dataset
from ssd34.errors import DatasetError, OptionError
from ssd34.files.tree import FolderFiles
from tests.conftest import EXAMPLES
from tests.support.datasets import sample
from tests.support.pictures import noise
from tests.support.refusals import refused


def with_objects(name, classes):
    return sample(name, [(1, 1, 9, 9)] * len(classes), labels=classes)


def dataset(samples, images=None):
    labels = LabelSet.from_names(("a", "b", "c"))
    return Dataset("drawn", labels, tuple(samples), images)


def names(part):
    return [one.file_name for one in part.samples]


@given(
    classes=st.lists(st.lists(st.integers(1, 3), max_size=4), min_size=10, max_size=60),
    val=st.floats(0.1, 0.4),
    seed=st.integers(0, 9),
)
@settings(max_examples=50, deadline=None)
def test_every_picture_is_in_one_part_and_parts_are_as_large_as_wished(classes, val, seed):
    whole = dataset(with_objects(f"{n}.png", each) for n, each in enumerate(classes))
    parts = divide(whole, Shares(shares={"val": val, "test": 0.2}, seed=seed))
    assert list(parts) == ["train", "val", "test"]
    assert sorted(n for part in parts.values() for n in names(part)) == sorted(names(whole))
    for name, share in (("train", 0.8 - val), ("val", val), ("test", 0.2)):
        assert abs(len(parts[name]) - share * len(whole)) < 2
        order = [int(file.split(".")[0]) for file in names(parts[name])]
        assert order == sorted(order)


def test_a_rare_class_is_shared_out_like_the_others():
    rare = {3, 17, 41, 60, 77}
    whole = dataset(with_objects(f"{n}.png", [1, 2] if n in rare else [1]) for n in range(100))
    val = divide(whole, Shares(shares={"val": 0.2}))["val"]
    assert len(val) == 20
    assert sum(2 in one.labels for one in val.samples) == 1


def test_the_seed_chooses_among_equals_and_nothing_else_does():
    whole = dataset(with_objects(f"{n}.png", [1]) for n in range(40))
    chosen = [names(divide(whole, Shares(shares={"val": 0.2}, seed=s))["val"]) for s in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


@pytest.mark.parametrize("pattern", [r"^(film\d)_", r"^film\d"])
def test_a_pattern_keeps_pictures_together(pattern):
    whole = dataset(with_objects(f"film{n % 5}_{n}.png", [1 + n % 3]) for n in range(50))
    parts = divide(whole, Shares(shares={"val": 0.2}, pattern=pattern))
    films = [{name[:5] for name in names(part)} for part in parts.values()]
    assert not films[0] & films[1]
    assert [len(part) for part in parts.values()] == [40, 10]


def test_pictures_that_look_alike_stay_together(tmp_path):
    """Smaller, brighter and compressed again, one scene; other pictures and a broken one not."""
    cat = Image.open(EXAMPLES / "chelsea.jpg")
    saved = {
        "a.png": cat,
        "b.jpg": cat.resize((200, 133)),
        "c.jpg": ImageEnhance.Brightness(cat).enhance(0.8),
        "d.png": Image.open(EXAMPLES / "coffee.jpg"),
        "e.png": Image.fromarray(noise(60, 60)),
    }
    samples = []
    for name, picture in saved.items():
        picture.save(tmp_path / name, quality=60)
        samples.append(sample(name, width=picture.width, height=picture.height))
    (tmp_path / "f.png").write_bytes(b"no picture")
    samples.append(sample("f.png"))
    whole = dataset(samples, FolderFiles(tmp_path))
    done: list[int] = []
    scenes = group_scenes(whole, threads=2, progress=done.append)
    assert done == [1, 2, 3, 4, 5, 6]
    assert scenes[0] == scenes[1] == scenes[2]
    assert len(set(scenes)) == 4
    parts = divide(whole, Shares(shares={"val": 0.4}), alike=scenes)
    assert any({"a.png", "b.jpg", "c.jpg"} <= set(names(part)) for part in parts.values())


@pytest.mark.parametrize(
    ("wrong", "fact"),
    [({"shares": {"val": 0.0}}, "0 for val"), ({"shares": {"val": 1.5}}, "1.5"),
     ({"shares": {"val": float("nan")}}, "nan"), ({"shares": {"val": 0.6, "test": 0.4}}, "0.6"),
     ({"shares": {"val": 0.2}, "pattern": "("}, "("),
     ({"shares": {"val": 0.2}, "pattern": "frame"}, "frame")],
)  # fmt: skip
def test_what_cannot_be(wrong, fact):
    with refused(OptionError, fact):
        divide(dataset([sample("1.png"), sample("2.png")]), Shares(**wrong))


def test_a_part_without_pictures_is_an_error():
    whole = dataset([with_objects("1.png", [1]), with_objects("2.png", [1])])
    with refused(DatasetError, "val", "--no-near"):
        divide(whole, Shares(shares={"val": 0.2}), alike=[0, 0])
