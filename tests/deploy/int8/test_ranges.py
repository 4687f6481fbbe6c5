import numpy as np
import pytest

from ssd34.deploy.graph.layers import Affine
from ssd34.deploy.int8.ranges import BINS, Histogram, Range, find_range

METHODS = ("minmax", "percentile", "entropy", "mse")


def histogram_of(values):
    return Histogram.empty().with_values(np.asarray(values, np.float32))


def found(values, method, percentile=99.9):
    return find_range(histogram_of(values), method=method, percentile=percentile)


def rounded(values, affine):
    """Values that went through uint8 steps and back."""
    zero = np.float32(affine.zero_point)
    steps = np.clip(np.rint(values / affine.scale) + zero, 0, 255)
    return (steps - zero) * affine.scale


def squared_error(values, limits):
    return float(
        np.square(rounded(values, Affine.spanning(limits.low, limits.high)) - values).sum()
    )


GENERATOR = np.random.default_rng(7)
CRAFTED = {
    "bell": GENERATOR.normal(0, 2, 100_000),
    "rectified": np.maximum(GENERATOR.normal(0, 2, 100_000), 0),
    "even": GENERATOR.uniform(-1, 3, 100_000),
    "long tail": GENERATOR.exponential(1, 100_000) ** 2,
    "lopsided": np.concatenate([GENERATOR.normal(0, 0.2, 99_000), GENERATOR.uniform(0, 9, 1000)]),
    "negative": -GENERATOR.exponential(1, 100_000),
}


@pytest.mark.parametrize("values", CRAFTED.values(), ids=CRAFTED)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_most_and_no_more_than_was_seen(method, values):
    limits = found(values, method)
    assert limits.low <= 0 <= limits.high
    assert min(values.min(), 0) - 1e-6 <= limits.low
    assert limits.high <= max(values.max(), 0) + 1e-6
    inside = ((values >= limits.low) & (values <= limits.high)).mean()
    assert inside > 0.98
    # Clipping may cost a bit, but not more than a wasted bit of the steps would.
    whole = Range(min(values.min(), 0), max(values.max(), 0))
    if method == "mse":
        assert squared_error(values, limits) <= 1.01 * squared_error(values, whole)


def test_minmax_is_what_was_seen():
    values = CRAFTED["bell"].astype(np.float32)
    assert found(values, "minmax") == Range(values.min(), values.max())


@pytest.mark.parametrize("name", ["bell", "even", "lopsided"])
def test_percentile_is_numpys_on_both_sides(name):
    values = CRAFTED[name]
    limits = found(values, "percentile", 99)
    step = histogram_of(values).width
    low, high = np.quantile(values, [0.005, 0.995])
    assert abs(limits.low - min(low, 0)) <= 2 * step
    assert abs(limits.high - high) <= 2 * step


def test_percentile_of_one_sided_values_cuts_one_side():
    values = CRAFTED["rectified"]
    limits = found(values, "percentile", 99)
    assert limits.low == 0
    assert abs(limits.high - np.quantile(values, 0.99)) <= 2 * histogram_of(values).width
    assert found(values, "percentile", 100).high == pytest.approx(values.max())


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
@pytest.mark.parametrize("sign", [1, -1])
def test_one_far_outlier_does_not_take_the_steps(method, sign):
    values = np.concatenate([GENERATOR.normal(0, 1, 1_000_000), [sign * 60.0]])
    limits = found(values, method, 99.999)
    # A squared error of 60 weighs as much as the rounding of very many others.
    assert max(-limits.low, limits.high) < (30 if method == "mse" else 12)
    assert max(-found(values, "minmax").low, found(values, "minmax").high) == 60


@pytest.mark.parametrize("name", CRAFTED)
def test_mse_is_as_good_as_trying_every_clipping_on_the_values_themselves(name):
    values = CRAFTED[name][:20_000]
    lows = np.linspace(1, 0.05, 24) * min(values.min(), 0)
    highs = np.linspace(1, 0.05, 24) * max(values.max(), 0)
    best = min(
        squared_error(values, Range(low, high))
        for low in np.unique(lows)
        for high in np.unique(highs)
    )
    assert squared_error(values, found(values, "mse")) <= 1.05 * best


def test_entropy_clips_a_long_tail_and_no_even_distribution():
    even, tail = found(CRAFTED["even"], "entropy"), found(CRAFTED["long tail"], "entropy")
    assert even.high - even.low > 0.97 * 4
    assert np.quantile(CRAFTED["long tail"], 0.99) < tail.high < 0.8 * CRAFTED["long tail"].max()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 1e-30, 3.0, -3.0, 1e30])
def test_a_tensor_of_one_value(method, value):
    limits = found(np.full(1000, value), method)
    assert limits.low == pytest.approx(min(value, 0))
    assert limits.high == pytest.approx(max(value, 0))
    affine = Affine.spanning(limits.low, limits.high)
    assert np.isfinite(affine.scale)
    assert affine.scale > 0
    back = rounded(np.full(3, value, np.float32), affine)
    np.testing.assert_allclose(back, value, atol=max(abs(value) / 1000, 1e-17))


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_that_was_never_seen(method):
    assert find_range(Histogram.empty(), method=method, percentile=99) == Range(0, 0)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 6), (-1, 1), (-0.3, 7.1), (-9, 0.001), (-0.001, 9), (-4, 0), (2, 5), (-5, -2)],
)
def test_steps_hold_both_ends_and_zero(low, high):
    steps = Affine.spanning(low, high)
    reach = (np.array([0, 255], np.float32) - np.float32(steps.zero_point)) * steps.scale
    tolerance = 1e-5 * (high - low)
    assert reach[0] <= min(low, 0) + tolerance
    assert reach[1] >= max(high, 0) - tolerance
    assert steps.scale <= 1.01 * (max(high, 0) - min(low, 0)) / 255


def of(*batches):
    histogram = Histogram.empty()
    for values in batches:
        histogram = histogram.with_values(np.asarray(values, np.float32))
    return histogram


def test_counts_are_numpys():
    generator = np.random.default_rng(0)
    batches = [generator.normal(0, scale, 20_000) for scale in (0.01, 3, 0.5, 40)]
    histogram = of(*batches)
    everything = np.concatenate(batches).astype(np.float32)
    assert histogram.total == len(everything)
    assert (histogram.smallest, histogram.largest) == (everything.min(), everything.max())
    expected, edges = np.histogram(everything, BINS, (-histogram.reach, histogram.reach))
    assert histogram.reach in (128, 256)
    # Only values within rounding of an edge may lie in the bin beside.
    assert np.abs(np.cumsum(histogram.counts) - np.cumsum(expected)).max() <= 2
    np.testing.assert_allclose(histogram.centres, (edges[1:] + edges[:-1]) / 2, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_pictures_does_not_matter(seed):
    """Merged bins are those of a histogram that was as wide from the start."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=30) * 10.0 ** generator.integers(-6, 6, 30)
    shuffled = generator.permutation(values)
    one, other = of(*[[v] for v in values]), of(*[[v] for v in shuffled])
    assert (one.reach, one.smallest, one.largest) == (other.reach, other.smallest, other.largest)
    assert (one.counts == other.counts).all()
    assert one.total == len(values)


def test_edges():
    zero = of([-1e-6, -1e-6, 0.0], [1000.0])  # stays an edge
    assert zero.counts[BINS // 2 - 1 : BINS // 2 + 1].tolist() == [2, 1]
    assert of([]).total == 0
    assert of([0.0, 0.0]).counts[BINS // 2] == 2
    assert of([4.0]).counts[-1] == 1
    assert of([np.finfo(np.float32).max]).total == 1
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="not finite"):
            of([1.0, bad])


def test_quantiles_are_numpys():
    values = np.random.default_rng(1).normal(0, 3, 100_000).astype(np.float32)
    histogram = of(values)
    for share in (0.001, 0.3, 0.5, 0.999):
        expected = np.quantile(values, share, method="inverted_cdf")
        assert abs(histogram.quantile(share) - expected) <= histogram.width
    assert histogram.quantile(0) == pytest.approx(values.min(), abs=histogram.width)
    assert histogram.quantile(1) == pytest.approx(values.max(), abs=histogram.width)
