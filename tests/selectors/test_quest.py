"""Quest's bound is the largest score that any key in the box could have, and pages are read whole."""

import numpy as np

from ghostkv.selectors.quest import bounds as box_bounds

PAGE = 8


def test_the_bound_holds_for_every_key_and_is_tight_for_the_box(bench, selector):
    quest, scene = selector("quest", page=PAGE), bench.scene
    bounds = box_bounds(scene, *quest.boxes(scene.keys))
    for p in range(bounds.shape[2]):
        keys = scene.keys[p * PAGE : (p + 1) * PAGE].astype(float)
        scores = scene.queries.astype(float) @ keys.T * scene.scale
        assert (bounds[..., p] >= scores.max(axis=-1) - 1e-5).all()
        # The best corner of the box, one component at a time.
        corner = np.where(scene.queries > 0, keys.max(axis=0), keys.min(axis=0))
        best = (corner * scene.queries.astype(float)).sum(axis=-1) * scene.scale
        assert np.allclose(bounds[..., p], best, atol=1e-4)


def test_pages_are_read_in_order_of_their_bounds_and_all_but_the_last_are_whole(bench, selector):
    quest, scene, cold = selector("quest", page=PAGE), bench.scene, bench.cold()
    selection, bounds = bench.select(quest), box_bounds(bench.scene, *quest.boxes(bench.scene.keys))
    read, page = bench.read(selection, 2), np.arange(bench.capture.tokens) // PAGE
    for q in range(len(read)):
        by_key = np.where(np.isfinite(scene.known[:, q]), scene.known[:, q], bounds[:, q, page])
        seen = np.isfinite(scene.known[0, q]) | cold[q]
        shares = np.exp(by_key - by_key[:, seen].max(axis=1, keepdims=True)) * seen
        merit = (shares / shares.sum(axis=1, keepdims=True)).sum(axis=0)
        touched = [p for p in np.unique(page[cold[q]]) if read[q, page == p].any()]
        whole = [p for p in touched if read[q, cold[q] & (page == p)].all()]
        assert len(touched) - len(whole) <= 1
        left = cold[q] & ~np.isin(page, touched)
        assert merit[cold[q] & np.isin(page, touched)].min() >= merit[left].max() * (1 - 1e-4)


def test_two_vectors_are_paid_for_every_page_with_a_cold_key(bench, selector):
    selection = bench.select(selector("quest", page=PAGE))
    page = np.arange(bench.capture.tokens) // PAGE
    pages = [len(set(page[row])) for row in bench.cold()]
    assert np.allclose(selection.index_bytes[2], np.array(pages) * 2 * 2 * 16)


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
