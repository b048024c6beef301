import numpy as np
import pytest

from reducer.columns.cells import NO_BINS, Bins
from reducer.columns.distributions import bin_of_us, distributions, middle, quantiles


def bins_of(*samples_us: np.ndarray) -> Bins:
    """Return the bins of samples, a place each."""
    cells = []
    for place, samples in enumerate(samples_us):
        numbers, amounts = np.unique(bin_of_us(samples), return_counts=True)
        cells += [(place, *cell) for cell in zip(numbers.tolist(), amounts.tolist(), strict=True)]
    return Bins(*(np.array(column) for column in zip(*cells, strict=True)))


@pytest.mark.parametrize("us", [1, 3.7, 976.5625, 1e3, 1e6, 8e6, 1e9])
def test_a_time_is_within_its_bin(us):
    (number,) = bin_of_us(np.array([us]))
    seconds = us * 1e-6
    assert 2 ** (number / 8 - 30) <= seconds * (1 + 1e-12)
    assert seconds < 2 ** ((number + 1) / 8 - 30) * (1 + 1e-12)
    assert middle(np.array([number]))[0] == pytest.approx(seconds, rel=0.0443)


def test_times_beyond_all_bins():
    assert bin_of_us(np.array([0, 1e300])).tolist() == [0, 511]


@pytest.mark.parametrize("share", [0, 0.5, 0.9, 0.95, 0.99, 1])
def test_quantiles_are_within_five_percent(share):
    random = np.random.default_rng(3)
    samples = [
        np.array([1234.0]),
        np.array([10.0, 500_000.0]),
        random.uniform(100, 300, 7),
        random.lognormal(7, 2, 10_000),
        np.concatenate((random.normal(200, 5, 900), random.normal(1e6, 1e4, 100))),
        random.exponential(5000, 333),
    ]
    places, seconds = quantiles(bins_of(*samples), share)
    assert places.tolist() == list(range(len(samples)))
    exact = [np.quantile(each, share) * 1e-6 for each in samples]
    assert seconds == pytest.approx(exact, rel=0.05)


def test_distributions():
    bins = Bins(np.array([2, 2, 5]), np.array([10, 12, 1]), np.array([3, 4, 9]))
    found = distributions(bins)
    assert [column.tolist() for column in found] == [[2, 5], [0, 2], [2, 1], [7, 9]]


def test_nothing():
    assert [len(column) for column in distributions(NO_BINS)] == [0] * 4
    assert [len(column) for column in quantiles(NO_BINS, 0.5)] == [0, 0]
