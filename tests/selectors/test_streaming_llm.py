"""StreamingLLM reads the most recent cold keys and nothing else."""

import numpy as np


def test_it_widens_the_hot_window(bench, selector):
    selection = bench.select(selector("streaming_llm"))
    for r in range(4):
        read = bench.read(selection, r)
        for q, stop in enumerate(bench.scene.visible.stop):
            assert np.array_equal(np.flatnonzero(read[q]), np.arange(stop - read[q].sum(), stop))
    assert (selection.index_bytes == 0).all()
