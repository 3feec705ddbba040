"""Token-Picker: margins that hold, chunks that are paid, decisions that are progressive."""

import numpy as np


def fitted(bench, picker):
    (low, span), theta = picker.fit(bench.calibration)
    return low, span, theta


def test_the_full_margin_bounds_the_score(bench, selector):
    picker = selector("token_picker", chunks=[2, 2, 4, 4], slack=1.0)
    low, span, _ = fitted(bench, picker)
    scene = bench.scene
    inside = ((scene.keys >= low) & (scene.keys <= low + span)).all(
        axis=1
    )  # the code clips what lies outside
    bits = 0
    for chunk in picker.chunks:
        bits += chunk
        cells = 1 << bits
        unit = np.clip((scene.keys - low) / span, 0, 1 - 1e-6)
        middle = low + span * (np.floor(unit * cells) + 0.5) / cells
        exact = scene.queries.astype(float) @ scene.keys.T.astype(float) * scene.scale
        estimate = scene.queries.astype(float) @ middle.T.astype(float) * scene.scale
        margin = (np.abs(scene.queries) @ span) * scene.scale / (2 * cells)
        assert (np.abs(exact - estimate)[..., inside] <= margin[..., None] + 1e-4).all()


def test_bounds_only_fall_and_every_chunk_read_is_paid(bench, selector):
    picker = selector("token_picker", chunks=[2, 2, 4, 4])
    low, span, theta = fitted(bench, picker)
    bounds = picker._bounds(bench.scene, (low, span))
    for earlier, later in zip(bounds, bounds[1:], strict=False):
        assert (later <= earlier).all()
    selection = bench.select(picker)
    r = 2
    read, cold = bench.read(selection, r), bench.cold()
    paid = selection.index_bytes[r] + read.sum(axis=-1) * bench.budget.pair_bytes
    for q in (0, 6):
        # A key that is read survived all rounds: some threshold explains reads and bytes together.
        cut = min(bounds[-1][q][read[q]].min(), np.inf)
        assert bounds[-1][q][cold[q] & ~read[q]].max() < cut
        cost = [2 * 16 / 8, 2 * 16 / 8, 4 * 16 / 8, 4 * 16 / 8, 32]
        least = cost[0] * cold[q].sum()
        for i, bound in enumerate(bounds):
            least += cost[i + 1] * (bound[q][cold[q]] >= cut).sum()
        assert paid[q] >= least - 1e-6


def test_a_survivor_costs_twelve_bits_a_channel_and_its_value(bench, selector):
    # With everything read, bytes are 12 bits of K and 16 of V instead of 16 and 16.
    picker = selector("token_picker", chunks=[12])
    selection = bench.select(picker)
    kept = bench.read(selection, 3).sum(axis=-1)
    paid = selection.index_bytes[3] + kept * bench.budget.pair_bytes
    assert np.allclose(paid, 24 * bench.scene.visible.cold + 32 * kept)
