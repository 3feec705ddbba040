"""SkyLight's table: its norm and its methods by loops, and the stage's rows."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ghostkv.stages.reproduce.errors import METHODS, at_density, board, error_table
from ghostkv.stages.reproduce.jobs import ErrorTable
from ghostkv.stages.reproduce.schemas import BOARD_SCHEMA, ERROR_SCHEMA
from ghostkv.stages.reproduce.skylight.call import AttentionCall, CapturedCache
from ghostkv.stages.reproduce.skylight.fixed import (
    BoardDoubleSparsity,
    BoardOracleTopK,
    BoardOracleTopP,
    BoardPQCache,
    BoardQuest,
)
from ghostkv.stages.reproduce.skylight.methods import pseudo_quantised
from ghostkv.stages.reproduce.skylight.sampling import BoardMagicPig, BoardVAttention
from tests.stages.conftest import job_of, make_layer

DENSITIES = (0.1, 0.2, 0.4)


@pytest.fixture
def call() -> AttentionCall:
    capture = make_layer("held", 0, tokens=300)
    cache = CapturedCache(capture, make_layer("codec", 0, tokens=300), 150, np.random.default_rng(0))
    return AttentionCall(cache, 20, 0, int(capture.positions[20]) + 1, 3)


def selections(kind, call):
    return dict(kind(call.cache).selections(call, DENSITIES))


def test_the_error_is_of_all_heads_of_a_call_together(call):
    capture = call.cache.capture
    inclusion = np.where(np.random.default_rng(5).random((4, call.seen)) < 0.3, 0.5, 0.0).astype(np.float32)
    inclusion[:, 0] = 1.0
    true, found = [], []
    for head in range(4):
        keys = capture.keys[head // 2, : call.seen].astype(float)
        values = capture.values[head // 2, : call.seen].astype(float)
        weights = np.exp(keys @ capture.queries[head, 20].astype(float) * capture.scale)
        true.append(weights @ values / weights.sum())
        sparse = sum(
            weights[key] / inclusion[head, key] * values[key]
            for key in range(call.seen)
            if inclusion[head, key]
        )
        found.append(
            sparse
            / sum(weights[key] / inclusion[head, key] for key in range(call.seen) if inclusion[head, key])
        )
    expected = np.linalg.norm(np.subtract(true, found)) / np.linalg.norm(true)
    density, error = call.measured(inclusion)
    assert error == pytest.approx(expected, rel=1e-4)
    assert density == pytest.approx((inclusion > 0).mean())
    assert call.measured(np.ones_like(inclusion)) == (1.0, pytest.approx(0, abs=1e-6))


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.name)
def test_every_method_reads_sinks_and_window_surely_and_gives_probabilities(call, kind):
    for setting, inclusion in selections(kind, call).items():
        assert inclusion.shape == (4, call.seen), setting
        assert (inclusion[:, :3] == 1).all()
        assert (inclusion[:, -3:] == 1).all()
        assert inclusion.min() >= 0
        assert inclusion.max() <= 1


@pytest.mark.parametrize("kind", [BoardOracleTopK, BoardPQCache, BoardDoubleSparsity])
def test_ranked_keys_fill_the_density(call, kind):
    for setting, inclusion in selections(kind, call).items():
        assert set(np.unique(inclusion)) == {0, 1}
        assert (inclusion.sum(axis=1) == round(setting.value * call.seen)).all()


def test_the_oracle_reads_the_largest_scores(call):
    for setting, inclusion in selections(BoardOracleTopK, call).items():
        for head in range(4):
            others = call.scores[head, 3:-3]
            count = round(setting.value * call.seen) - 6
            assert inclusion[head, 3:-3].astype(bool).tolist() == (others >= np.sort(others)[-count]).tolist()


def test_top_p_reads_the_fewest_keys_that_hold_the_share(call):
    for setting, inclusion in selections(BoardOracleTopP, call).items():
        mass = call.weights / call.weights.sum(axis=1, keepdims=True)
        held = (mass * inclusion).sum(axis=1)
        assert (held >= setting.value - 1e-6).all()
        least = np.where((inclusion > 0) & ~call.kept, mass, np.inf).min(axis=1)
        assert ((held - least < setting.value + 1e-6) | np.isinf(least)).all()


def test_pages_are_read_whole_by_their_bounds(call):
    for setting, inclusion in selections(BoardQuest, call).items():
        if setting.variant != "16":
            continue
        pages = [slice(start, min(start + 128, call.seen)) for start in range(0, call.seen, 128)]
        assert inclusion.sum() == 4 * call.seen  # three pages at least, and there are no more
        assert len(pages) <= 3
    small = {one: found for one, found in selections(BoardQuest, call).items() if one.variant == "2"}
    assert len({found.sum() for found in small.values()}) > 1


def test_labels_are_the_channels_where_calibration_queries_are_large(call):
    method = BoardDoubleSparsity(call.cache)
    found = method.estimates(call, "2")
    for head in range(4):
        channels = np.argsort(-np.abs(call.cache.calibration.queries[head]).mean(axis=0))[
            :2
        ]  # 16 wide, 4 bits a key
        query = pseudo_quantised(call.queries[head][channels], 2)
        keys = np.stack(
            [pseudo_quantised(key[channels], 2) for key in call.cache.keys[head // 2, : call.seen]]
        )
        np.testing.assert_allclose(found[head], keys @ query, rtol=1e-4, atol=1e-4)


def test_hashed_keys_come_with_the_chance_that_they_meet(call):
    method = BoardMagicPig(call.cache)
    totals = np.zeros(call.seen)
    draws = 100
    for seed in range(draws):
        again = CapturedCache(call.cache.capture, call.cache.calibration, 150, np.random.default_rng(seed))
        drawn = AttentionCall(again, call.query, call.first, call.last, call.fixed)
        inclusion = next(
            found for one, found in BoardMagicPig(again).selections(drawn, DENSITIES) if one.value == 32
        )
        totals += inclusion[0] > 0
    chance = np.zeros(call.seen)
    centred = call.cache.keys[0] - method._means[0]
    most = np.linalg.norm(centred, axis=1).max()
    query = call.queries[0] - method._means[0, 0]
    for key in range(call.seen):
        cosine = centred[key] @ query / most / np.linalg.norm(query)
        chance[key] = 1 - (1 - (1 - np.arccos(np.clip(cosine, -1, 1)) / np.pi) ** 8) ** 32
    chance[call.kept] = 1
    assert np.abs(totals / draws - chance).max() < 5 * 0.5 / np.sqrt(draws)
    assert abs((totals / draws - chance).mean()) < 0.01


def test_a_sample_grows_as_its_error_shrinks_and_counts_by_its_probability(call):
    flat = replace(call, cache=replace(call.cache, capture=replace(call.cache.capture, scale=0.05)))
    found = selections(BoardVAttention, flat)
    sizes = [(inclusion > 0).sum() for one, inclusion in sorted(found.items()) if one.variant == "0.01"]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.2 * sizes[-1]
    # The estimate of the denominator has little bias: probabilities weigh what was sampled.
    draws = []
    for seed in range(60):
        again = CapturedCache(call.cache.capture, call.cache.calibration, 150, np.random.default_rng(seed))
        drawn = AttentionCall(again, call.query, call.first, call.last, call.fixed)
        inclusion = dict(BoardVAttention(again).selections(drawn, DENSITIES))[("0.05", 0.3)]
        draws.append(
            np.divide(drawn.weights, inclusion, where=inclusion > 0, out=np.zeros_like(inclusion)).sum(axis=1)
        )
    assert np.abs(np.mean(draws, axis=0) / call.weights.sum(axis=1) - 1).max() < 0.15


def row(method, setting, density, error, text="a", variant="", frame="scaled"):
    return {"frame": frame, "method": method, "variant": variant, "setting": setting, "text": text} | {
        "calls": 3, "density": density, "error": error
    }  # fmt: skip


def test_a_method_stands_with_its_best_variant_between_its_settings():
    rows = [row("x", 1, 0.05, 0.4), row("x", 2, 0.15, 0.1)]
    assert at_density(rows, 0.1) == pytest.approx(0.2)
    assert at_density(rows, 0.15) == pytest.approx(0.1)
    assert at_density(rows, 0.2) is None
    better = [row("x", 1, 0.1, 0.15, variant="y")]
    assert at_density([*rows, *better], 0.1) == pytest.approx(0.15)
    # Texts count alike, at the mean of their densities.
    assert at_density([row("x", 1, 0.08, 0.1), row("x", 1, 0.12, 0.3, "b")], 0.1) == pytest.approx(0.2)


def test_ranks_are_among_methods_that_both_measured():
    names = [method.name for method in METHODS]
    rows = [row(name, 1, 0.1, 0.01 * (1 + place)) for place, name in enumerate(names) if name != "quest"]
    found = pl.DataFrame(list(board(rows, [0.1])), infer_schema_length=None).filter(source="board")
    both = found.drop_nulls("rank_ours")
    assert set(both["method"]) == {"oracle_topp", "oracle_topk", "pqcache", "double_sparsity", "magicpig"}
    assert both.sort("rank_theirs")["method"].to_list() == both.sort("rank_ours")["method"].to_list()
    assert found.filter(method="vattention")["theirs"].to_list() == [None]


def write(captures, folder, **changes) -> tuple[pl.DataFrame, pl.DataFrame]:
    config = {"reproduce": {"densities": [0.1, 0.2], "error_queries": 2}}
    outputs = {name: str(folder / f"{name}.parquet") for name in ("errors", "board")}
    error_table(job_of(ErrorTable, config, captures=captures, **changes), {}, outputs)
    return tuple(pl.read_parquet(path) for path in outputs.values())


def test_the_stage_writes_every_method_of_both_layers(captures, tmp_path):
    errors, found = write(captures, tmp_path)
    assert errors.columns == ERROR_SCHEMA.names
    assert found.columns == BOARD_SCHEMA.names
    assert set(errors["calls"]) == {4}  # two queries of two layers
    assert set(errors["method"]) == {method.name for method in METHODS}
    # 128 tokens of 32,768 are one of 300, and 128 themselves leave nothing to choose.
    assert set(errors["frame"]) == {"scaled"}
    oracle = errors.filter(method="oracle_topk").sort("setting")["error"].to_list()
    assert oracle == sorted(oracle, reverse=True)
    again = write(captures, tmp_path)
    assert again[0].equals(errors)


def test_without_values_there_is_no_error(write_captures, tmp_path):
    errors, found = write(write_captures(values=False), tmp_path)
    assert errors.height == found.height == 0
