from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from ssd34.datasets.open import select_classes
from ssd34.errors import DatasetError
from ssd34.evaluate.results import Results, find_coverage_gap, read_results, write_results
from tests.support.coco_oracle import data_of, random_case

GOOD = {"image_id": 11, "category_id": 3, "bbox": [1, 2.5, 3, 4], "score": 0.5}


@pytest.fixture(scope="module")
def data():
    """Pictures 11, 21, ..."""
    return data_of(random_case(1)[0])


def test_columns_are_a_sequence_of_results():
    _, listed = random_case(3)
    results = Results.of(listed)
    assert len(results) == len(listed) > 10
    assert list(results) == listed
    assert results[-1] == listed[-1]
    assert list(results[2:7:2]) == listed[2:7:2]
    assert Results.of(results) is results
    with pytest.raises(IndexError):
        results[len(listed)]


def test_none_at_all():
    empty = Results.of([])
    assert len(empty) == len(Results.joined([])) == len(Results.joined([empty])) == 0
    assert empty.boxes_xywh.shape == (0, 4)
    assert empty.as_array().shape == (0, 7)


def test_joined_keeps_the_order():
    _, listed = random_case(3)
    parts = [Results.of(listed[a:b]) for a, b in ((0, 4), (4, 4), (4, 5), (5, None))]
    assert list(Results.joined(parts)) == listed


def test_within_leaves_out_other_pictures_and_classes():
    values, listed = random_case(3)
    dataset = select_classes(data_of(values), ["disc"])
    expected = [result for result in listed if result["category_id"] == 7]
    assert 0 < len(expected) < len(listed)
    assert list(Results.of(listed).within(dataset)) == expected


def test_a_file_reads_back_as_the_very_same(tmp_path):
    values, listed = random_case(8)
    write_results(tmp_path / "d.json", Results.of(listed))
    assert json.loads((tmp_path / "d.json").read_text()) == listed
    assert list(read_results(tmp_path / "d.json", data_of(values))) == listed
    write_results(tmp_path / "none.json", Results.of([]))
    assert len(read_results(tmp_path / "none.json", data_of(values))) == 0


def test_numbers_beside_the_form_are_fine(data, tmp_path):
    rows = [
        {**GOOD, "score": -3, "id": 4, "segmentation": None},  # a logit
        {**GOOD, "score": 17.5, "bbox": [-5, 0, 0, 0]},
        {**GOOD, "image_id": 11.0, "category_id": 3.0},
    ]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    results = read_results(tmp_path / "d.json", data)
    assert results.scores.tolist() == [-3, 17.5, 0.5]
    assert results[2] == results[2] | {"image_id": 11, "category_id": 3}


def test_names_go_before_ids(data, tmp_path):
    """As ``ssd34 detect`` writes them, which does not know the data set's ids."""
    first, second = data.samples[:2]
    label = data.labels.names[1]
    named = {**GOOD, "image_id": 1, "category_id": 77, "category_name": label}
    rows = [
        {**named, "file_name": f"somewhere/else/{second.file_name}"},
        {**named, "file_name": first.file_name, "category_name": "zebra"},
        GOOD,
    ]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    results = read_results(tmp_path / "d.json", data)
    assert results.image_ids.tolist() == [second.image_id, GOOD["image_id"]]
    assert results.category_ids.tolist() == [data.labels.category_ids[1], GOOD["category_id"]]
    rows.append({**named, "file_name": "other.jpg"})
    (tmp_path / "d.json").write_text(json.dumps(rows))
    with pytest.raises(DatasetError, match=r"detection 3: other\.jpg is no picture of set"):
        read_results(tmp_path / "d.json", data)


def test_ids_of_other_tools_are_taken_by_the_pictures_name(data, tmp_path):
    """Of the file, or of the file without its ending as id; the category ids are the data set's."""
    first, second = data.samples[:2]
    stem = second.file_name.rpartition(".")[0]
    rows = [
        {**GOOD, "image_id": first.image_id, "file_name": f"x/{second.file_name}"},
        {**GOOD, "image_id": stem, "file_name": second.file_name},
        {**GOOD, "image_id": stem},
        {**GOOD, "image_id": first.image_id, "file_name": "renamed.jpg"},
    ]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    results = read_results(tmp_path / "d.json", data)
    assert results.image_ids.tolist() == [second.image_id] * 3 + [first.image_id]
    assert set(results.category_ids.tolist()) == {GOOD["category_id"]}
    for wrong in ({"image_id": "x"}, {"image_id": "x", "file_name": "x.jpg"}):
        (tmp_path / "d.json").write_text(json.dumps([{**GOOD, **wrong}]))
        with pytest.raises(DatasetError, match="detection 0"):
            read_results(tmp_path / "d.json", data)


def test_folders_tell_pictures_of_one_name_apart(data, tmp_path):
    names = ["a/1.jpg", "b/1.jpg", "b/c/2.jpg"]
    samples = [
        dataclasses.replace(sample, file_name=name)
        for sample, name in zip(data.samples, names, strict=False)
    ]
    data = dataclasses.replace(data, samples=tuple(samples))
    named = {**GOOD, "image_id": data.samples[0].image_id, "category_name": data.labels.names[1]}
    files = ["/home/me/b/1.jpg", "a/1.jpg", r"C:\photos\a\1.jpg", "2.jpg", "x/2.jpg"]
    (tmp_path / "d.json").write_text(json.dumps([{**named, "file_name": f} for f in files]))
    found = read_results(tmp_path / "d.json", data).image_ids.tolist()
    assert found == [data.samples[k].image_id for k in (1, 0, 0, 2, 2)]
    (tmp_path / "d.json").write_text(json.dumps([{**named, "file_name": "1.jpg"}]))
    with pytest.raises(
        DatasetError, match=r"detection 0: 1\.jpg is one of several pictures of set"
    ):
        read_results(tmp_path / "d.json", data)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[" * 100000, "not JSON"),
        ("{}", "not a list"),
        ('{"summary": {}}', "report"),
        ('{"annotations": []}', "annotations"),
        ("[3]", "detection 0: expected an object, got 3"),
        *(
            (json.dumps([GOOD, {**GOOD, **change}]), f"detection 1: {words}")
            for change, words in (
                ({"image_id": 12}, "image_id 12 is no picture of set, whose ids begin with 11, 21"),
                ({"image_id": "11"}, "image_id '11' is no"),
                ({"image_id": 11.5}, "image_id 11.5 is no"),
                ({"image_id": True}, "image_id True is no"),
                ({"image_id": None}, "image_id None is no"),
                ({"image_id": 10**30}, "image_id 1000"),
                ({"category_id": 4}, "category_id 4 is no class of set, whose ids are 3, 7, 11"),
                ({"bbox": [1, 2, 3]}, r"bbox \[1, 2, 3\]: expected four"),
                ({"bbox": [1, 2, 3, "4"]}, r"bbox .*expected four"),
                ({"bbox": {"a": 1}}, r"bbox .*expected four"),
                ({"bbox": [1, 2, float("nan"), 4]}, r"bbox .*expected four finite"),
                ({"bbox": [1, 2, 10**400, 4]}, r"bbox .*expected four finite"),
                ({"bbox": [1, 2, -3, 4]}, "bbox .*negative size"),
                ({"score": None}, "score None: expected a finite"),
                ({"score": float("inf")}, "score inf: expected a finite"),
            )
        ),
        (json.dumps([{k: v for k, v in GOOD.items() if k != "score"}]), "has no 'score'"),
    ],
)  # fmt: skip
def test_malformed_files_say_where_and_what(data, tmp_path, text, words):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(DatasetError, match=words) as caught:
        read_results(tmp_path / "d.json", data)
    assert str(caught.value).startswith(f"{tmp_path / 'd.json'}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_missing_file(data, tmp_path):
    for path in (tmp_path / "no.json", tmp_path):
        with pytest.raises(DatasetError, match="expected detections"):
            read_results(path, data)


def test_a_gap_at_the_end_is_noticed(data):
    ids = np.array([sample.image_id for sample in data.samples])
    assert len(ids) > 2

    def found_in(chosen):
        return Results.of([{**GOOD, "image_id": int(i)} for i in chosen])

    assert find_coverage_gap(found_in(ids[:2]), data) == len(ids) - 2
    assert find_coverage_gap(found_in(ids[[-1]]), data) == 0
    assert find_coverage_gap(found_in([]), data) == 0
