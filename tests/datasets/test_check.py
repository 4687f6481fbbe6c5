from __future__ import annotations

import json
import math
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ssd34.core.spec import named_spec
from ssd34.datasets.check import SMALLEST_DEFAULT_BOX, check, contents, count_statistics
from ssd34.datasets.contact_sheet import draw_contact_sheet
from ssd34.datasets.open import open_dataset
from tests.conftest import shapes_dataset


@pytest.fixture
def folder(tmp_path):
    """Four clean pictures."""
    return shapes_dataset(tmp_path / "set", pictures=4)


def values_of(folder):
    return json.loads((folder / "instances.json").read_text())


def change(folder, **parts):
    (folder / "instances.json").write_text(json.dumps(values_of(folder) | parts))


def picture(folder, number):
    return folder / "images" / f"{number:04}.png"


def change_box(folder, bbox, **others):
    """The first box; returns the name of its picture."""
    annotations = values_of(folder)["annotations"]
    annotations[0] |= {"bbox": bbox, **others}
    change(folder, annotations=annotations)
    return f"{annotations[0]['image_id']:04}.png"


def found(*folders, threads=1):
    result = check([open_dataset(folder) for folder in folders], threads=threads)
    return [(str(f.problem.kind), f.problem.where, f.problem.reason) for f in result.findings]


def the_only(*folders):
    (finding,) = found(*folders)
    return finding


def test_a_clean_set_is_clean(shapes):
    result = check([open_dataset(shapes)], threads=3)
    assert result.clean and result.findings == () and result.counts == {}
    assert draw_contact_sheet(result.findings, most=9) is None


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_truncated_pictures_are_found(folder, suffix, share):
    file = picture(folder, 2)
    whole = file.with_suffix(f".{suffix}")
    Image.open(file).save(whole, quality=90)
    content = whole.read_bytes()
    whole.unlink()
    file.write_bytes(content[: int(len(content) * share)])
    kind, where, reason = the_only(folder)
    assert (kind, where) == ("unreadable picture", "0002.png")
    assert "picture" in reason and "\n" not in reason


def test_damage_in_the_middle_is_found_though_the_header_is_right(folder):
    file = picture(folder, 3)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with Image.open(file) as image:
        assert image.size
    assert the_only(folder)[:2] == ("unreadable picture", "0003.png")


def test_missing_pictures_are_found(folder):
    picture(folder, 1).unlink()
    assert the_only(folder)[:2] == ("missing picture", "0001.png")


def test_a_damaged_picture_in_a_zip_is_found(folder):
    archive = Path(shutil.make_archive(str(folder), "zip", folder))
    with zipfile.ZipFile(archive) as opened:
        start = opened.getinfo("images/0002.png").header_offset
    content = bytearray(archive.read_bytes())
    content[start + 100] ^= 0xFF
    archive.write_bytes(content)
    assert the_only(archive)[:2] == ("unreadable picture", "0002.png")


def test_a_picture_of_another_size_is_found(folder):
    """Swapped sides hint at the rotation."""
    Image.new("RGB", (50, 60)).save(picture(folder, 2))
    kind, where, reason = the_only(folder)
    assert (kind, where) == ("wrong size", "0002.png")
    assert "50 x 60" in reason and "EXIF" not in reason
    images = values_of(folder)["images"]
    images[1] |= {"width": 60, "height": 50}
    change(folder, images=images, annotations=[])
    assert "EXIF" in the_only(folder)[2]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [*((([x, 10, w, 20], {}), kind) for x, w, kind in (
        (10, 0, "box without area"), (10, -5, "box without area"), (500, 5, "box outside"),
        (10, math.nan, "box not finite"), (10, math.inf, "box not finite"),
        (10, 0.5, "box under one pixel"), (-30, 50, "box over the edge"), (-0.9, 30, None))),
     (([10, 10, 20], {}), "broken entry"),
     (([10, 10, 20, 20], {"category_id": 5}), "unknown class")],
)  # fmt: skip
def test_broken_boxes_are_found(folder, changes, kind):
    """Not one that rounding put over the edge."""
    bbox, others = changes
    name = change_box(folder, bbox, **others)
    assert [one[:2] for one in found(folder)] == ([(kind, name)] if kind else [])


def test_duplicates_in_the_annotations_are_found(folder):
    values = values_of(folder)
    annotations = [*values["annotations"], values["annotations"][0]]
    change(folder, annotations=annotations, images=[*values["images"], values["images"][3]])
    kinds = sorted(kind for kind, _, _ in found(folder))
    assert kinds == ["annotation id twice", "box twice", "image id twice"]


def test_the_same_box_of_another_class_is_not_the_same(folder):
    annotations = values_of(folder)["annotations"]
    other = {3: 7, 7: 11, 11: 3}[annotations[0]["category_id"]]
    change(folder, annotations=[*annotations, annotations[0] | {"id": 99, "category_id": other}])
    assert found(folder) == []


def test_the_same_file_twice_in_a_set(folder):
    shutil.copy(picture(folder, 1), picture(folder, 3))
    values = values_of(folder)
    values["images"][2] |= {key: values["images"][0][key] for key in ("width", "height")}
    annotations = [a for a in values["annotations"] if a["image_id"] != 3]
    change(folder, images=values["images"], annotations=annotations)
    kind, where, reason = the_only(folder)
    assert (kind, where) == ("picture twice", "0003.png") and "0001.png" in reason
    picture(folder, 3).unlink()
    images = [values["images"][0], values["images"][0] | {"id": 50}]
    change(folder, images=images, annotations=[])
    assert "50" in the_only(folder)[2]


def test_leaks_by_file_and_by_pixels(folder, tmp_path):
    other = shapes_dataset(tmp_path / "other", pictures=3, seed=9)
    images, theirs = values_of(other)["images"], values_of(folder)["images"]
    shutil.copy(picture(folder, 2), picture(other, 1))
    Image.open(picture(folder, 4)).save(picture(other, 2), compress_level=0)
    for mine, source in ((0, 1), (1, 3)):
        images[mine] |= {key: theirs[source][key] for key in ("width", "height")}
    change(other, images=images, annotations=[])
    first, second = found(folder, other)
    assert first[:2] == ("picture in two sets", "0001.png")
    assert second[:2] == ("picture in two sets", "0002.png")
    assert f"file as 0002.png in {folder}" in first[2]
    assert "pixels" in second[2] and f"0004.png in {folder}" in second[2]
    assert all(finding.twin for finding in check([open_dataset(folder)] * 2).findings)


def test_the_same_pixels_in_another_shape_are_another_picture(folder):
    for number, size in ((1, (30, 40)), (2, (40, 30))):
        Image.new("RGB", size).save(picture(folder, number))
    kinds = {kind for kind, _, _ in found(folder)}
    assert kinds == {"wrong size"}


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_change_nothing(shapes, threads):
    dataset = open_dataset(shapes)
    assert len(told := list(contents(dataset, threads=threads))) == 12
    assert told == list(contents(dataset))


def test_broken_pictures_decoded_in_threads_do_not_warn(folder, recwarn):
    for number in range(1, 5):
        file = picture(folder, number)
        exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0junk"
        Image.open(file).save(file, "JPEG", exif=exif)
    for _ in range(5):
        list(contents(open_dataset(folder), threads=4))
    assert not recwarn.list


def test_progress_goes_over_all_sets_and_an_interrupted_check_stops(shapes):
    dataset = open_dataset(shapes)
    seen: list[int] = []
    check([dataset, dataset], progress=seen.append)
    assert seen == list(range(1, 25))

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check([dataset], threads=2, progress=interrupt)


def test_the_result_is_json(folder):
    change_box(folder, [500, 10, 5, 20])
    values = json.loads(json.dumps(check([open_dataset(folder)] * 2).to_dict(), allow_nan=False))
    assert values["clean"] is False
    assert values["counts"] == {"box outside": 2, "picture in two sets": 4}
    outside, leak = values["findings"][0], values["findings"][-1]
    assert outside["box"] == [500, 10, 505, 30] and outside["image_id"] == 1
    assert leak["twin"] == {"data": str(folder), "where": "0004.png"}


@settings(max_examples=25, deadline=None)
@given(
    boxes=st.lists(
        st.tuples(st.integers(0, 2), *(st.floats(0, 60),) * 2, *(st.floats(1, 59),) * 2), max_size=8
    )
)
def test_counts_are_those_of_plain_loops(tmp_path_factory, boxes):
    folder = shapes_dataset(tmp_path_factory.mktemp("counted") / "set", pictures=2)
    Image.new("RGB", (200, 100)).save(picture(folder, 1))
    images = values_of(folder)["images"]
    images[0] |= {"width": 200, "height": 100}
    boxes = [box for box in boxes if box[2] + box[4] <= 100]
    annotations = [
        {"id": n, "image_id": 1, "category_id": (3, 7, 11)[c], "bbox": [x, y, w, h]}
        for n, (c, x, y, w, h) in enumerate(boxes)
    ]
    change(folder, images=images, annotations=annotations)
    counted = count_statistics(open_dataset(folder))
    assert counted.boxes == sum(counted.relative_sizes) == len(boxes)
    assert [c.boxes for c in counted.classes] == [sum(b[0] == k for b in boxes) for k in range(3)]
    assert [c.pictures for c in counted.classes] == [
        any(b[0] == k for b in boxes) for k in range(3)
    ]
    assert counted.coco_sizes == {
        "small": sum(w * h < 1024 for *_, w, h in boxes),
        "medium": sum(1024 <= w * h < 9216 for *_, w, h in boxes),
        "large": sum(w * h >= 9216 for *_, w, h in boxes),
    }
    assert counted.empty == (("0002.png",) if boxes else ("0001.png", "0002.png"))
    sides = [math.sqrt(w * h / 20000) for *_, w, h in boxes]
    close = sum(abs(side - SMALLEST_DEFAULT_BOX) < 1e-5 for side in sides)
    below = sum(side < SMALLEST_DEFAULT_BOX for side in sides)
    assert abs(counted.below_default_boxes - below) <= close


def test_the_smallest_default_box_is_that_of_the_papers():
    assert pytest.approx(21 / 300) == SMALLEST_DEFAULT_BOX
    assert pytest.approx(84 / 1200) == SMALLEST_DEFAULT_BOX
    assert named_spec("ssd300-resnet34").scales[0] == 21


def red_share(image):
    pixels = np.asarray(image).astype(int)
    return np.mean(np.abs(pixels - (0xD9, 0x2D, 0x20)).sum(-1) < 30)


@pytest.mark.parametrize("far", [-1e30, -5000.0, 500, 5000.0, 1e30])
def test_the_sheet_shows_the_box_in_question(folder, far):
    change_box(folder, [far, 10 if far == 500 else far, 20, 20])
    sheet = draw_contact_sheet(check([open_dataset(folder)]).findings, most=9)
    assert sheet is not None
    assert red_share(sheet) > 0.0003 or far != 500


@pytest.mark.parametrize("most", [1, 3, 100])
def test_every_kind_gets_its_share(folder, most):
    """Of four leaks and one broken picture, the broken one is always there, and first."""
    picture(folder, 4).write_bytes(b"no picture")
    dataset = open_dataset(folder)
    findings = check([dataset, open_dataset(folder)]).findings
    sheet = draw_contact_sheet(findings, most=most)
    assert sheet is not None
    rows = math.ceil(min(most, 5) / 5)
    assert sheet.height > 200 * rows
    first = np.asarray(sheet)[42 : 42 + 225, 8 : 8 + 300]
    assert red_share(first) == 0
    assert len(np.unique(first.reshape(-1, 3), axis=0)) < 1000


def test_hostile_names_are_drawn_in_their_place(folder):
    """Also beside those of other sets, and findings that no picture has."""
    other = shutil.copytree(folder, folder.parent / "other")
    values_ = values_of(folder)
    images, annotations = values_["images"], values_["annotations"]
    orphan = annotations[0] | {"id": 999, "image_id": 99}
    name = "a\nb\x1b[31m" + "x" * 200 + ".png"
    shutil.copy(picture(folder, 1), folder / "images" / name)
    change(folder, images=[images[0] | {"file_name": name, "width": 500}, *images[1:]],
           annotations=[*annotations, orphan])  # fmt: skip
    findings = check([open_dataset(folder), open_dataset(other)]).findings
    assert draw_contact_sheet(findings, most=9) is not None
