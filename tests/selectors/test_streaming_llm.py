"""StreamingLLM reads the most recent cold keys and nothing else."""

import numpy as np


def test_it_widens_the_hot_window(bench, selector):
    selection = bench.select(selector("streaming_llm"))
    for r in range(4):
        read = bench.read(selection, r)
        for g, q in np.ndindex(read.shape[:2]):
            stop = bench.scene.visible.stop[q]
            assert np.array_equal(np.flatnonzero(read[g, q]), np.arange(stop - read[g, q].sum(), stop))
    assert (selection.index_bytes == 0).all()
