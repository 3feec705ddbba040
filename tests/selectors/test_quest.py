"""Quest's bound is the largest score that any key in the box could have, and pages are read whole."""

import numpy as np

PAGE = 8


def test_the_bound_holds_for_every_key_and_is_tight_for_the_box(bench, selector):
    quest, scene = selector("quest", page=PAGE), bench.scene
    bounds = quest.bounds(scene)
    for p in range(bounds.shape[2]):
        keys = scene.keys[p * PAGE : (p + 1) * PAGE].astype(float)
        scores = scene.queries.astype(float) @ keys.T * scene.scale
        assert (bounds[..., p] >= scores.max(axis=-1) - 1e-5).all()
        # The best corner of the box, one component at a time.
        corner = np.where(scene.queries > 0, keys.max(axis=0), keys.min(axis=0))
        best = (corner * scene.queries.astype(float)).sum(axis=-1) * scene.scale
        assert np.allclose(bounds[..., p], best, atol=1e-4)


def test_whole_pages_are_read_best_bound_first(bench, selector):
    quest = selector("quest", page=PAGE)
    selection, bounds, cold = bench.select(quest), quest.bounds(bench.scene), bench.cold()
    read = bench.read(selection, 2)
    page = np.arange(bench.capture.tokens) // PAGE
    for g, q in np.ndindex(read.shape[:2]):
        pages = [p for p in range(bounds.shape[2]) if (cold[q] & (page == p)).any()]
        whole = [p for p in pages if read[g, q, cold[q] & (page == p)].all()]
        touched = [p for p in pages if read[g, q, page == p].any()]
        assert whole == touched
        left = [bounds[g, q, p] for p in pages if p not in whole]
        assert min((bounds[g, q, p] for p in whole), default=np.inf) >= max(left)


def test_two_vectors_are_paid_for_every_page_with_a_cold_key(bench, selector):
    selection = bench.select(selector("quest", page=PAGE))
    page = np.arange(bench.capture.tokens) // PAGE
    pages = [len(set(page[row])) for row in bench.cold()]
    assert np.allclose(selection.index_bytes[2, 0], np.array(pages) * 2 * 2 * 16)


def test_int8_boxes_hold_every_key_and_are_hardly_wider(bench, selector):
    scene = bench.scene
    low, high = selector("quest", page=PAGE).boxes(scene.keys)
    lower, higher = selector("quest", page=PAGE, metadata="int8").boxes(scene.keys)
    assert (lower <= low).all()
    assert (higher >= high).all()
    for inner, outer in ((low, lower), (high, higher)):
        step = np.ptp(inner, axis=1) / 255
        assert (np.abs(outer - inner).max(axis=1) <= 1.1 * step + 0.02).all()
        assert max(len(np.unique(row)) for row in outer) <= 256


def test_int8_boxes_pay_a_byte_a_component_and_their_scales(bench, selector):
    selection = bench.select(selector("quest", page=PAGE, metadata="int8"))
    page = np.arange(bench.capture.tokens) // PAGE
    pages = np.array([len(set(page[row])) for row in bench.cold()])
    assert np.allclose(selection.index_bytes[2], pages * 2 * (16 + 4))
