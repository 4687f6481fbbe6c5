import numpy as np
import pytest

from ssd34.deploy.int8.ranges import BINS, Histogram


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


def test_zero_stays_an_edge():
    histogram = of([-1e-6, -1e-6, 0.0], [1000.0])
    middle = BINS // 2
    assert histogram.counts[middle - 1] == 2
    assert histogram.counts[middle] == 1


def test_edges():
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
