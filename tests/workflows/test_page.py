from PIL import Image

from ssd34.evaluate.report.page import encode_jpeg
from ssd34.workflows.training.page import render_training_page
from tests.evaluate.report.conftest import Elements

RECIPE = {"recipe": "fine-tune", "changed": {"epochs": 2}, "settings": {"epochs": 2, "init": None}}


def step(number, loss):
    return {
        "event": "step", "step": number, "batches_per_epoch": 10, "loss": loss, "box_loss": 1.0,
        "class_loss": loss - 1, "learning_rate": 1e-3, "images_per_second": 8.0,
    }  # fmt: skip


def evaluation(number, ap, classes):
    return {
        "event": "evaluation", "step": number, "pictures": 5, "policy": "zoo", "class_ap": classes,
        "class_ap50": classes, "summary": {"AP": ap, "AP50": ap, "AP_small": None},
    }  # fmt: skip


def test_the_page_is_whole_and_refers_to_nothing_outside():
    history = [step(5, 4.0), step(10, 3.0), evaluation(10, 0.2, {"cat": 0.2}), step(20, 2.0),
               evaluation(20, 0.1, {"cat": 0.1})]  # fmt: skip
    exhibit = ("a.jpg", encode_jpeg(Image.new("RGB", (20, 10), "red")))
    page = render_training_page("tiny", history, recipe=RECIPE, facts=["fine"], exhibits=[exhibit])
    found = [value for _, attributes in Elements(page).found for value in attributes.items()]
    links = [value[:22] for name, value in found if name in ("src", "href")]
    assert links == ["data:,", "data:image/jpeg;base64"]
    assert "Best evaluation: epoch 1, 5 pictures, policy zoo" in page
    assert page.count("<polyline") == 3 + 2 + 1 + 1


def test_names_are_escaped_and_nothing_is_fine():
    name = "<script>alert(1)</script>"
    page = render_training_page(name, [evaluation(10, 0.1, {name: 0.1})], recipe={"recipe": name},
                         facts=[name])  # fmt: skip
    assert "<script" not in page
    empty = render_training_page("tiny", [], recipe={}, facts=[])
    assert empty.count("nothing yet") == 4


def test_what_was_best_under_another_policy_does_not_count():
    history = [step(10, 3.0), {**evaluation(10, 0.3, {"cat": 0.3}), "policy": "best"},
               step(20, 2.0), evaluation(20, 0.2, {"cat": 0.2}),
               step(30, 2.0), evaluation(30, 0.1, {"cat": 0.1})]  # fmt: skip
    page = render_training_page("tiny", history, recipe=RECIPE, facts=[])
    assert "Best evaluation: epoch 2, 5 pictures, policy zoo" in page
