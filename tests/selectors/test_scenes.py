"""What a selection is measured against: exactly k relevant keys, as everywhere in the lab."""

from dataclasses import replace

import numpy as np

from ghostkv.elimination.attention import TOP_K, cold_range, exact_attention
from ghostkv.files.buffers import Space
from ghostkv.selectors.scenes import RECALL_KEYS, budget_of, view
from tests.selectors.conftest import EXACT, RATIOS, make_capture


def test_of_keys_that_tie_with_the_kth_the_earliest_are_relevant(bench, selector):
    """Small whole numbers, so that scores tie exactly: one key in four leads, and more lead than are relevant."""
    some = make_capture(3)
    keys, queries = np.zeros_like(some.keys), np.ones_like(some.queries)
    keys[:, ::4] = 1
    capture = replace(some, keys=keys, queries=queries)
    scene, truth = view(capture, 0, EXACT, None, Space())
    late = capture.at(capture.positions >= EXACT["headline_start"])
    visible = cold_range(late.positions, late.first_visible(), EXACT["sinks"], EXACT["hot"])
    exact = exact_attention(late, 0, keys[0].astype(np.float32), visible, EXACT["top_k"])
    assert np.array_equal(truth.relevant & 1, exact.needed & TOP_K)
    assert np.flatnonzero(truth.relevant[0, 0] & 1).tolist() == [0, 4, 8, 12, 16, 20]
    assert (truth.top_k == EXACT["top_k"]).all()
    assert (truth.cold_32 == RECALL_KEYS).all()
    # Reading nothing loses the relevant keys that are cold, of six: all but the sink.
    selection = bench.select(selector("streaming_llm"))
    few = len(late.positions)
    nothing = replace(selection, reads=np.zeros((few, late.tokens), np.uint8))
    bench = replace(
        bench, capture=late, scene=scene, truth=truth, budget=budget_of(late, scene.visible, RATIOS)
    )
    found = bench.measure(nothing)["fer"]
    assert np.allclose(found[np.isfinite(found)], 5 / 6)
