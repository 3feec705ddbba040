"""Louver's table: each index by brute force, and the stage's rows."""

import itertools
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ghostkv.stages.reproduce.clusters import kmeans, nearest
from ghostkv.stages.reproduce.jobs import RecallTable
from ghostkv.stages.reproduce.louver.hnsw import HnswGraph
from ghostkv.stages.reproduce.louver.indexes import (
    FAIR,
    KNOWN,
    PUBLISHED,
    RecallAsked,
    RecallHnsw,
    RecallIvf,
    RecallLouver,
    RecallLouverHot,
    RecallLsh,
    RecallPq,
    RecallQuest,
    RecallStreaming,
    RecallTwilight,
)
from ghostkv.stages.reproduce.recall import recall_table
from ghostkv.stages.reproduce.schemas import RECALL_SCHEMA
from tests.stages.conftest import job_of

TOKENS, WIDTH = 400, 16


@pytest.fixture(scope="module")
def keys():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(TOKENS, WIDTH)) * np.linspace(3, 0.3, WIDTH) + 1).astype(np.float32)


def ask(keys, fair, seed=1, last=300) -> RecallAsked:
    query = np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)
    last = last if fair else TOKENS
    scores = keys @ query
    scores[last:] = -np.inf
    return RecallAsked(query, scores, 0, last, WIDTH**-0.5, fair, sinks=4, hot=32)


@pytest.mark.parametrize("fair", [False, True])
def test_balls_lose_no_key_and_return_those_that_may_reach(keys, fair):
    index = RecallLouver(keys, np.random.default_rng(0))
    assert len(index.centres) == TOKENS // 4
    for seed in range(20):
        asked = ask(keys, fair, seed)
        found = set(index.returned(asked, 10).keys.tolist())
        norm = np.linalg.norm(asked.query)
        for key in range(asked.last):
            reach = index.centres[index.owner[key]] @ asked.query + norm * index.radii[index.owner[key]]
            least = np.sort(asked.scores)[-10]
            assert (key in found) == (reach >= least) or abs(reach - least) < 1e-3
        if fair:
            assert set(asked.ordered[:10].tolist()) <= found
            assert max(found) < asked.last


def test_a_threshold_from_the_hot_window_loses_no_key_and_returns_more(keys):
    exact = RecallLouver(keys, np.random.default_rng(0))
    known = RecallLouverHot(exact)
    for seed in range(20):
        asked = ask(keys, True, seed)
        least = exact.returned(asked, 10).keys
        found = known.returned(asked, 10).keys
        assert set(least.tolist()) <= set(found.tolist())
    assert len(known.returned(asked, 37).keys) == asked.last  # more than sinks and hot window hold


def test_the_graph_finds_what_a_scan_finds(keys):
    normal = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    graph = HnswGraph.of(np.ascontiguousarray(normal), 8, np.random.default_rng(0))
    assert (graph.links[0] >= 0).sum(axis=1).max() <= 16
    hits = dict.fromkeys((TOKENS, 150), 0)
    for seed, limit in itertools.product(range(20), hits):
        query = np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)
        found, looked = graph.search(query, limit, 64)
        assert found.max() < limit
        assert looked <= limit + 8
        hits[limit] += len(
            set(found[:10].tolist()) & set(np.argsort(-(normal[:limit] @ query))[:10].tolist())
        )
    assert hits[TOKENS] / 200 > 0.95
    # Links to keys that are not there yet lead nowhere.
    assert hits[150] / 200 > 0.75


def test_a_graph_of_normal_keys_ranks_by_angle(keys):
    asked = ask(keys, True)
    found = RecallHnsw(keys, np.random.default_rng(0)).returned(asked, 5).keys
    angles = (keys / np.linalg.norm(keys, axis=1, keepdims=True))[:300] @ asked.query
    assert len(set(found.tolist()) & set(np.argsort(-angles)[:5].tolist())) >= 4


def test_lists_scan_a_quarter_and_rank_exactly(keys):
    index, asked = RecallIvf(keys, np.random.default_rng(0)), ask(keys, True)
    answer = index.returned(asked, 10)
    lists = np.argsort(-(index.centres @ asked.query))[:5]
    scanned = [key for key in range(300) if index.owner[key] in lists]
    assert answer.looked == len(scanned)
    assert answer.keys.tolist() == sorted(scanned, key=lambda key: -asked.scores[key])[:10]


def test_product_codes_rank_by_the_scores_of_their_centres(keys):
    index, asked = RecallPq(keys, np.random.default_rng(0)), ask(keys, True)
    decoded = np.concatenate(
        [book[codes] for book, codes in zip(index.books, index.codes, strict=True)], axis=1
    )
    best = np.argsort(-(decoded[:300] @ asked.query), kind="stable")[:10]
    assert len(set(best.tolist()) & set(index.returned(asked, 10).keys.tolist())) >= 9


def test_signs_return_twice_as_many_keys_of_least_hamming_distance(keys):
    index, asked = RecallLsh(keys, np.random.default_rng(0)), ask(keys, True)
    differ = [
        (np.sign(key @ index.planes) != np.sign(asked.query @ index.planes)).sum() for key in keys[:300]
    ]
    found = index.returned(asked, 10).keys
    assert len(found) == 20
    assert max(differ[key] for key in found) <= min(differ[key] for key in range(300) if key not in found)


@pytest.mark.parametrize("last", [300, 304])
def test_pages_rank_by_exact_maximum_as_published_and_by_bounds_when_fair(keys, last):
    index = RecallQuest(keys, np.random.default_rng(0))
    published, fair = ask(keys, False), ask(keys, True, last=last)
    exact = [published.scores[start : start + 16].max() for start in range(0, TOKENS, 16)]
    assert index.returned(published, 10).keys.tolist() == list(
        range(16 * np.argmax(exact), 16 * np.argmax(exact) + 16)
    )
    bounds = []
    for start in range(0, last, 16):
        page = keys[start : min(start + 16, last)] * fair.query
        low, high = (
            keys[start : min(start + 16, last)].min(axis=0),
            keys[start : min(start + 16, last)].max(axis=0),
        )
        bounds.append(np.maximum(low * fair.query, high * fair.query).sum())
        assert bounds[-1] >= page.sum(axis=1).max() - 1e-4
    wanted = {16 * page + key for page in np.argsort(bounds)[-3:] for key in range(16)} & set(range(last))
    assert set(index.pages(fair, 3).keys.tolist()) == wanted
    # A query with fewer keys must not leave its last page's bounds behind.
    assert set(index.pages(replace(fair, last=last - 5), 99).keys.tolist()) == set(range(last - 5))


def test_recent_keys_are_those_before_the_query_when_fair_and_the_texts_last_as_published(keys):
    index = RecallStreaming(keys, np.random.default_rng(0))
    assert index.returned(ask(keys, False), 6).keys.tolist() == [0, 1, 2, 3, 398, 399]
    assert index.returned(ask(keys, True), 6).keys.tolist() == [0, 1, 2, 3, 298, 299]


def test_top_p_takes_the_fewest_keys_and_the_models_scale_only_when_fair(keys):
    index = RecallTwilight(keys, np.random.default_rng(0))
    for fair in (False, True):
        asked = ask(keys, fair)
        scores = asked.scores[: asked.last].astype(float) * (WIDTH**-0.5 if fair else 1)
        mass = np.sort(np.exp(scores - scores.max()))[::-1]
        count = len(index.returned(asked, 10).keys)
        assert mass[:count].sum() >= 0.85 * mass.sum() > mass[: count - 1].sum()


def test_clusters_are_a_fixed_point_of_their_rounds(keys):
    centres = kmeans(keys, 5, 100, np.random.default_rng(0))
    owner = nearest(keys, centres)
    assert (owner == np.argmin(((keys[:, None] - centres) ** 2).sum(axis=2), axis=1)).mean() > 0.99
    np.testing.assert_allclose(centres, [keys[owner == one].mean(axis=0) for one in range(5)], atol=1e-4)


@pytest.fixture(scope="module")
def table(captures, tmp_path_factory) -> pl.DataFrame:
    path = str(tmp_path_factory.mktemp("recall") / "recall.parquet")
    config = {"reproduce": {"recall_at": [4, 16], "recall_positions": 10}, "frontier": {"hot": 16}}
    job = job_of(RecallTable, config, captures=captures)
    assert job.layer == 1
    recall_table(job, {}, {"recall": path})
    return pl.read_parquet(path)


def test_every_method_has_a_row_a_protocol_and_k(table):
    assert table.columns == RECALL_SCHEMA.names
    assert table.height == 2 * (len(PUBLISHED) + len(FAIR))
    assert set(table["queries"]) == {40}  # 10 positions, 4 heads
    assert len(KNOWN) == 2


def test_recall_is_whole_where_no_key_can_be_lost_and_bytes_count_the_index(table):
    fair = table.filter(protocol="fair")
    whole = fair.filter(pl.col("method").is_in(["louver", "louver_hot"]))
    assert whole["recall"].min() == 1.0
    assert (whole["bytes_ratio"] > whole["candidates"]).all()
    assert table.filter(pl.col("theirs").is_not_null()).height == 0  # nobody published k of 4 or 16
    streaming = fair.filter(method="streaming")
    np.testing.assert_allclose(streaming["bytes_ratio"], streaming["candidates"])


def test_the_same_job_twice_gives_the_same_rows(captures, table, tmp_path):
    config = {"reproduce": {"recall_at": [4, 16], "recall_positions": 10}, "frontier": {"hot": 16}}
    recall_table(
        job_of(RecallTable, config, captures=captures), {}, {"recall": str(tmp_path / "recall.parquet")}
    )
    assert pl.read_parquet(tmp_path / "recall.parquet").equals(table)
