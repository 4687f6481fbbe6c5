import pytest

from ssd34.text import counted


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [(0, "picture", "0 pictures"), (1, "picture", "1 picture"),
     (21, "varied picture", "21 varied pictures"), (1, "box", "1 box"), (2, "box", "2 boxes"),
     (1, "class", "1 class"), (80, "class", "80 classes")],
)  # fmt: skip
def test_one_and_many(number, noun, expected):
    assert counted(number, noun) == expected
