from __future__ import annotations

import dataclasses
import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from ssd34.evaluate.analysis import analyse
from ssd34.evaluate.counts import BACKGROUND, Confusion, Part
from ssd34.evaluate.report.plots import (
    MOST_CURVES,
    NAMES,
    find_commonest,
    make_plots,
    plot_class_ap,
    plot_class_curves,
    plot_confusion,
    plot_size_ap,
)
from ssd34.evaluate.report.theme import DARK, LIGHT, render_png
from ssd34.evaluate.results import Results
from tests.support.scenes import random_scene


@pytest.fixture(scope="module")
def analysis():
    return analyse(*random_scene(3))


def pixels(plot, theme):
    return np.asarray(Image.open(io.BytesIO(render_png(plot, theme))).convert("RGB"), int)


def test_a_plot_shows_its_numbers(analysis):
    """Taller bars, more colour."""
    sizes = analysis.sizes
    colour = [int(LIGHT.series[0][k : k + 2], 16) for k in (1, 3, 5)]

    def coloured(ap):
        parts = [dataclasses.replace(one, ap=ap, ap50=0.9, recall=0.9) for one in sizes]
        shown = pixels(plot_size_ap(parts), LIGHT)
        return int((np.abs(shown - colour).max(axis=-1) < 12).sum())

    low, high = coloured(0.2), coloured(0.8)
    assert low > 5000 and 3 < high / low < 5


def test_lines_keep_their_colours(analysis):
    """The palette of the file has room for every class's colour."""
    shown = pixels(plot_class_curves(analysis.curves, find_commonest(analysis)), LIGHT)
    for colour in LIGHT.series[: len(analysis.curves.by_class)]:
        wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
        assert (np.abs(shown - wanted).max(axis=-1) < 16).sum() > 100, colour


def test_zeros_are_drawn():
    """Objects, and nothing detected: no bar has a height, no axis is without extent."""
    dataset, _ = random_scene(3)
    plots = list(make_plots(analyse(dataset, Results.of([]))))
    assert set(NAMES) - {plot.name for plot in plots} == {"score-threshold", "calibration"}
    for plot in plots:
        assert pixels(plot, DARK).std() > 5


def test_names_are_no_formulas_and_settings_are_left_alone():
    before = dict(matplotlib.rcParams)
    parts = [Part(name, 3, 0.1, 0.3, 0.2) for name in ("$\\frac{1$", "犬 🐈", "a" * 200, "_cat")]
    shown = pixels(plot_class_ap(parts), DARK)
    assert shown.shape[1] == 1040
    assert dict(matplotlib.rcParams) == before


def test_names_that_begin_with_an_underscore_are_in_the_legend(analysis):
    """Matplotlib leaves such labels out."""
    curve = analysis.curves.by_class[0]
    dark = []
    for name in ("_cat", "xcat"):
        named = (dataclasses.replace(curve, name=name),)
        curves = dataclasses.replace(analysis.curves, by_class=named)
        shown = pixels(plot_class_curves(curves, [name]), LIGHT)
        dark.append(int((shown.sum(axis=-1) < 300).sum()))
    assert dark[0] > 0.9 * dark[1]


def test_many_classes_leave_out_the_middle():
    parts = [Part(f"class {k}", 1, k / 200, k / 200, 0.1) for k in range(200)]
    plot = plot_class_ap(parts)
    assert "80 classes, from class 199" in plot.alt and "down to class 0" in plot.alt
    assert "120 classes between" in plot.alt and plot.height < 20
    assert len(plot.data["classes"]) == 200


def test_a_large_confusion_matrix_is_gathered_and_its_data_are_whole():
    names = (*(f"class {k}" for k in range(100)), BACKGROUND)
    counts = np.eye(101, dtype=np.int64)
    counts[3, 4] = 7
    plot = plot_confusion(Confusion(names, counts, 0.5))
    assert "class 3 taken for class 4 (7)" in plot.alt
    assert np.shape(plot.data["counts"]) == (101, 101)
    assert pixels(plot, LIGHT).std() > 10


def test_the_commonest_classes_have_curves(analysis):
    names = find_commonest(analysis)
    objects = {one.name: one.objects for one in analysis.classes}
    assert list(names) == sorted(names, key=lambda name: -objects[name])
    assert MOST_CURVES == len(LIGHT.series) == len(DARK.series)
