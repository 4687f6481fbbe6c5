import re
from html.parser import HTMLParser

from PIL import Image

from ssd34.evaluate.report.page import encode_jpeg
from ssd34.workflows.training.page import render_training_page

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


class Whole(HTMLParser):
    """Remembers tags that were opened and not closed, and what is referred to."""

    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_refers_to_nothing_outside():
    history = [step(5, 4.0), step(10, 3.0), evaluation(10, 0.2, {"cat": 0.2}), step(20, 2.0),
               evaluation(20, 0.1, {"cat": 0.1})]  # fmt: skip
    exhibit = ("a.jpg", encode_jpeg(Image.new("RGB", (20, 10), "red")))
    page = render_training_page("tiny", history, recipe=RECIPE, facts=["fine"], exhibits=[exhibit])
    parser = Whole()
    parser.feed(page)
    assert parser.open == []
    assert [link[:22] for link in parser.links] == ["data:,", "data:image/jpeg;base64"]
    assert "Best evaluation: epoch 1, 5 pictures, policy zoo" in page
    assert page.count("<polyline") == 3 + 2 + 1 + 1


def test_curves_run_from_the_first_value_to_the_last():
    page = render_training_page("tiny", [step(10, 4.0), step(20, 2.0)], recipe=RECIPE, facts=[])
    points = re.findall(r'<polyline class="a" points="([^"]+)"', page)[0].split()
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points)
    assert (x1, y0) == (508, 10)
    assert x0 == 52 + 456 / 2
    assert y1 == 10 + 204 / 2


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
