"""SnapKV reads what the nearest earlier queries attended to, smoothed along the text."""

import numpy as np
import pytest

from ghostkv.files.errors import ConfigError
from ghostkv.selectors.snapkv import windowed


def test_the_window_holds_the_nearest_observations_and_pools_along_keys():
    rng = np.random.default_rng(0)
    earlier, observed = rng.random((2, 9, 20), np.float32), np.array([2, 5, 8])
    out = np.zeros((2, 3, 20), np.float32)
    windowed(earlier, observed, 3, 2, False, out)
    for q, last in enumerate(observed):
        total = earlier[:, max(last - 3, 0) : last].sum(axis=1)
        for j in range(20):
            expected = total[:, max(j - 2, 0) : j + 3].max(axis=1)
            assert np.allclose(out[:, q, j], expected, atol=1e-5)


def test_means_are_over_the_whole_width_also_at_the_ends():
    rng = np.random.default_rng(0)
    earlier, observed = rng.random((1, 6, 12), np.float32), np.array([6])
    out = np.zeros((1, 1, 12), np.float32)
    windowed(earlier, observed, 4, 1, True, out)
    total = earlier[0, 2:6].sum(axis=0)
    for j in range(12):
        assert out[0, 0, j] == pytest.approx(total[max(j - 1, 0) : j + 2].sum() / 3, abs=1e-5)


def test_an_even_kernel_is_refused(selector):
    with pytest.raises(ConfigError, match=r"kernel is 4\. Accepted: an odd number\.\n  Write: kernel: 5"):
        selector("snapkv", kernel=4)


def test_it_reads_no_index(bench, selector):
    assert (bench.select(selector("snapkv")).index_bytes == 0).all()
