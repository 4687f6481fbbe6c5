from __future__ import annotations

from pathlib import Path

from ssd34.files.tree import number_names


def test_names_that_are_the_same_are_numbered_around_those_that_are_there():
    names = [Path(name) for name in ("a.jpg", "a-3.jpg", "a.jpg", "a.png", "a.jpg", "a-3.jpg")]
    assert [str(name) for name in number_names(names)] == [
        "a.jpg", "a-3.jpg", "a-2.jpg", "a.png", "a-4.jpg", "a-3-2.jpg"
    ]  # fmt: skip


def test_very_many_equal_names_do_not_look_at_each_other():
    """With the square of their number it would not end."""
    numbered = number_names([Path("frame.jpg")] * 50_000)
    assert len(set(numbered)) == 50_000 and numbered[-1] == Path("frame-50000.jpg")
