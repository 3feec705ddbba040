"""Double Sparsity scores from 4-bit labels of the loudest channels."""

import numpy as np


def test_channels_are_those_of_largest_mean_product(bench, selector):
    chosen, quantiser, rest = selector("double_sparsity", channels=4).fit(bench.calibration)
    keys, queries = bench.calibration.keys, bench.calibration.queries
    loud = np.abs(queries).mean(axis=(0, 1)) * np.abs(keys).mean(axis=0)
    assert set(chosen) == set(np.argsort(-loud)[:4])
    # Over all pairs of a query and a key, the mean of |q k| is the product of the means.
    pairs = np.abs(queries.reshape(-1, 1, 16) * keys[None]).mean(axis=(0, 1))
    assert np.allclose(pairs, loud, rtol=1e-4)
    assert (quantiser.bits == 4).all()
    assert (rest[chosen] == 0).all()


def test_labels_take_sixteen_levels_and_half_a_byte(bench, selector):
    double = selector("double_sparsity", channels=4)
    chosen, quantiser, _ = double.fit(bench.calibration)
    assert quantiser.quantise(bench.scene.keys[:, chosen]).max() <= 15
    assert np.allclose(bench.select(double).index_bytes[2, 0], 2 * bench.scene.visible.cold)


def test_compensation_leaves_the_choice_as_it_was(bench, selector):
    plain = bench.select(selector("double_sparsity", channels=4)).reads.copy()
    extended = selector("double_sparsity", channels=4, compensate=True)
    selection = bench.select(extended)
    assert np.array_equal(plain, selection.reads)
    assert extended.kind == "extended"
