"""H2O reads what earlier queries attended to, all of them together."""

import numpy as np

from ghostkv.selectors.h2o import accumulate


def test_mass_accumulates_over_the_observations_before_a_query():
    rng = np.random.default_rng(0)
    earlier, observed = rng.random((2, 7, 11), np.float32), np.array([3, 4, 6])
    out = np.zeros((2, 3, 11), np.float32)
    accumulate(earlier, observed, out)
    for q, count in enumerate(observed):
        assert np.allclose(out[:, q], earlier[:, :count].sum(axis=1), atol=1e-6)


def test_it_reads_the_heaviest_cold_keys(bench, selector):
    selection = bench.select(selector("h2o"))
    read, observed = bench.read(selection, 2), bench.scene.observed
    for q in range(len(read)):
        heavy = np.where(bench.cold()[q], bench.scene.earlier[:, : observed[q]].sum(axis=(0, 1)), -1)
        assert heavy[read[q]].min() >= heavy[bench.cold()[q] & ~read[q]].max() * (1 - 1e-4)


def test_observations_are_the_queries_before(bench):
    # The first measured query has seen exactly the sampled queries before the headline start.
    before = (bench.capture.positions < 150).sum()
    assert bench.scene.observed[0] == before > 0
    assert np.array_equal(np.diff(bench.scene.observed), np.ones(bench.scene.shape[1] - 1))


def test_a_recent_share_is_read_first(bench, selector):
    selection = bench.select(selector("h2o", recent=0.5))
    read = bench.read(selection, 2)
    for q in range(len(read)):
        window, stop = read[q].sum() // 2, bench.scene.visible.stop[q]
        assert read[q, stop - window : stop].all()


def test_an_accumulator_a_head_is_paid_for_every_key_read(bench, selector):
    selection = bench.select(selector("h2o"))
    assert np.allclose(selection.index_bytes[2], 2 * 2 * bench.read(selection, 2).sum(axis=-1))
