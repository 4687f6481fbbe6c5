import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from ssd34.datasets.coco import read_annotations_alone
from ssd34.datasets.dataset import Problem
from ssd34.datasets.open import open_dataset
from ssd34.deploy.search.pictures import count_seen, from_dataset, from_folder, from_path, split
from ssd34.errors import DatasetError, ImageError
from tests.support.datasets import coco, coco_image
from tests.support.refusals import refused


@pytest.fixture(scope="module")
def dataset(shapes):
    return open_dataset(str(shapes))


@pytest.mark.parametrize(("wanted", "calibrating"), [(1, 1), (3, 3), (4, 4), (200, 4)])
def test_no_picture_serves_both(dataset, wanted, calibrating):
    pictures, rest = split(dataset, pictures=wanted)
    measured = {sample.file_name for sample in rest.samples}
    used = {file.name for file in pictures.files}
    assert len(pictures) == calibrating
    assert not used & measured
    assert used | measured == {sample.file_name for sample in dataset.samples}


def test_pictures_are_spread_over_the_set(dataset):
    pictures = from_dataset(dataset, pictures=3)
    names = [s.file_name for s in dataset.samples]
    assert [names.index(file.name) for file in pictures.files] == [0, 6, 11]
    assert [p.shape for p in pictures.read()] == [
        dataset.read(dataset.samples[i]).shape for i in (0, 6, 11)
    ]


def test_a_folder_of_pictures_needs_no_boxes(tmp_path):
    for i in range(5):
        Image.fromarray(np.full((9, 8, 3), 50 * i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_text("no picture")
    problems: list[Problem] = []
    read = list(from_folder(str(tmp_path), pictures=10).read(problems.append))
    assert [int(p[0, 0, 0]) for p in read] == [0, 50, 100, 200]
    assert [p.where for p in problems] == ["3.png"] and "3.png" not in problems[0].reason


def test_a_path_is_a_data_set_where_it_is_one(shapes):
    assert from_path(str(shapes), pictures=2).files[0].name == "0001.png"
    assert len(from_path(str(shapes / "images"), pictures=20)) == 12
    with pytest.raises(DatasetError):
        from_path(str(shapes / "instances.txt"), pictures=2)


def test_too_few_pictures_are_refused(dataset, tmp_path):
    few = dataclasses.replace(dataset, samples=dataset.samples[:2])
    with refused(DatasetError, "--calibration"):
        split(few, pictures=1)
    with pytest.raises(ImageError):
        from_folder(str(tmp_path), pictures=1)


def pictures_in(folder, *, shade):
    folder.mkdir(parents=True)
    for i in range(3):
        Image.fromarray(np.full((9, 8, 3), shade + i, np.uint8)).save(folder / f"{i}.png")
    return from_folder(str(folder), pictures=3)


def test_other_pictures_of_the_same_names_have_another_fingerprint(tmp_path):
    a, same, other = (
        pictures_in(tmp_path / name / "pictures", shade=shade)
        for name, shade in (("a", 10), ("same", 10), ("other", 11))
    )
    assert a.name == other.name
    assert len(a) == len(other)
    before = same.fingerprint()
    assert a.fingerprint() == before != other.fingerprint()
    (tmp_path / "same" / "pictures" / "1.png").unlink()
    assert same.fingerprint() != before


def test_nothing_is_decoded_for_the_fingerprint(dataset, monkeypatch):
    """Calibration decodes every picture anyway; once is enough."""
    monkeypatch.setattr("ssd34.datasets.dataset.read_image", None)
    calibrating, measured = split(dataset, pictures=4)
    assert len(calibrating.fingerprint()) == 64
    assert calibrating.shared_with(measured) == 0


def test_pictures_that_are_also_measured_are_counted(dataset, shapes, tmp_path):
    calibrating, measured = split(dataset, pictures=4)
    assert calibrating.shared_with(measured) == 0
    assert calibrating.shared_with(dataset) == 4
    assert from_folder(str(shapes / "images"), pictures=20).shared_with(dataset) == 12
    name = dataset.samples[0].file_name
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(tmp_path / name)
    assert from_folder(str(tmp_path), pictures=1).shared_with(dataset) == 0


def test_pictures_of_one_name_in_several_folders_are_all_counted(tmp_path):
    """As videos come: d0/0001.png, d1/0001.png, ..."""
    images = []
    for number in range(5):
        name = f"d{number}/0001.png"
        (tmp_path / "images" / f"d{number}").mkdir(parents=True)
        Image.fromarray(np.full((9, 8, 3), number, np.uint8)).save(tmp_path / "images" / name)
        images.append(coco_image(id=number + 1, file_name=name, width=8, height=9))
    (tmp_path / "instances.json").write_text(json.dumps(coco(images=images, annotations=[])))
    measured = open_dataset(str(tmp_path))
    assert from_dataset(measured, pictures=5).shared_with(measured) == 5
    assert from_folder(str(tmp_path / "images" / "d1"), pictures=5).shared_with(measured) == 1
    first = dataclasses.replace(measured, samples=measured.samples[:2])
    assert from_dataset(measured, pictures=5).shared_with(first) == 2


def test_pictures_seen_in_training_are_the_same_files_under_any_name(dataset, shapes, tmp_path):
    """Other pictures of the same names do not count; without pictures only names can."""
    (tmp_path / "images").mkdir()
    values = json.loads((shapes / "instances.json").read_text())
    for image in values["images"]:
        number, source = image["id"], shapes / "images" / image["file_name"]
        if number <= 3:  # another name
            image["file_name"] = f"train-{number}.png"
        content = source.read_bytes() + (b"!" if number > 5 else b"")
        (tmp_path / "images" / image["file_name"]).write_bytes(content)
    (tmp_path / "instances.json").write_text(json.dumps(values))
    trained = open_dataset(str(tmp_path))
    read: list[int] = []
    assert count_seen(dataset, [trained], progress=read.append) == 5
    assert read == list(range(1, 13))
    alone = read_annotations_alone(tmp_path / "instances.json")
    assert count_seen(dataset, [alone]) == 9
    assert count_seen(dataset, [trained, alone]) == 12
    assert count_seen(dataset, []) == 0
