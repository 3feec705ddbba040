"""Peers: the stage's numbers equal ones computed by hand, and intervals are right."""

import numpy as np
import polars as pl
import pytest

from ghostkv.captures.capture_files import CaptureWriter, read_layer
from ghostkv.codecs.records import CodecSpec
from ghostkv.config.experiment import load_config
from ghostkv.config.peers import Peers
from ghostkv.files.errors import CaptureError, ConfigError
from ghostkv.files.io import read_table, sha256_file
from ghostkv.quantised.by_name import cache_type
from ghostkv.selectors import make
from ghostkv.stages.peers.choice import SizeChoice, chosen
from ghostkv.stages.peers.gather import gather
from ghostkv.stages.peers.jobs import GatherPeers, PeersLayer
from ghostkv.stages.peers.layer import measure_layer
from ghostkv.stages.peers.tables import _p_value, compare, holm, interval, verdicts
from tests.stages.conftest import PROOF, make_layer, make_sketch

CODECS = [CodecSpec("transform_code", 4)]
SINKS, HOT, TOP_K, START, RATIOS = 2, 8, 6, 150, [0.1, 0.3, 0.6]
SELECTORS = [
    {"name": "oracle_topk"},
    {"name": "streaming_llm"},
    {"name": "loki", "dims": 2},
    {"name": "loki", "dims": 8},
    {"name": "ghost", "bits": 2},
    {"name": "ghost", "bits": 1},
]
PARAMS = {
    "ratios": RATIOS,
    "selectors": SELECTORS,
    "caches": ["int8", "int3"],
    "seed": 0,
    "sinks": SINKS,
    "hot": HOT,
    "top_k": TOP_K,
    "headline_start": START,
    "sketched": CODECS,
    "fitted": [],
    "sketch_seed": 0,
    "code": "f",
}
TABLES = GatherPeers.tables


def run(captures, folder, layers=(0, 1), params=PARAMS):
    for layer in layers:
        sketch = make_sketch(captures, layer, CODECS, folder)
        outputs = {name: str(folder / f"{name}_{layer}.parquet") for name in PeersLayer.tables}
        measure_layer(PeersLayer.read(params | {"captures": captures, "layer": layer}), sketch, outputs)
    files = {
        name: [str(folder / f"{name}_{layer}.parquet") for layer in layers] for name in PeersLayer.tables
    }
    whole = {name: str(folder / f"{name}.parquet") for name in TABLES}
    gather(GatherPeers(), files, whole)
    return {name: read_table(path) for name, path in whole.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="module")
def tables(captures, folder):
    return run(captures, folder)


def streaming_by_hand(captures, layer, head, ratio):
    """StreamingLLM in plain NumPy: as many recent keys as the bytes buy."""
    capture = read_layer(captures[2]["folder"], layer)
    keys, values = (x[head // capture.group].astype(np.float64) for x in (capture.keys, capture.values))
    rows = []
    for position, query in zip(capture.positions, capture.queries[head].astype(np.float64), strict=True):
        if position < START:
            continue
        visible = position + 1
        score = keys[:visible] @ query * capture.scale
        mass = np.exp(score - score.max())
        mass /= mass.sum()
        cold = np.arange(SINKS, visible - HOT)
        bought = min(int(np.floor(ratio * visible - SINKS - HOT + 1e-9)), len(cold))
        kept = np.ones(visible, bool)
        kept[cold[: len(cold) - bought]] = False
        best_32 = cold[np.argsort(-score[cold])[:32]]
        output, sparse = mass @ values[:visible], mass[kept] @ values[:visible][kept] / mass[kept].sum()
        rows.append(
            {
                "recall_32": kept[best_32].mean(),
                "fer": 1 - kept[np.argsort(-score)[:TOP_K]].mean(),
                "dropped_mass_mean": mass[~kept].sum(),
                "output_error_mean": np.linalg.norm(output - sparse) / np.linalg.norm(output),
                "bytes_ratio_gqa": kept.sum() / visible,
            }
        )
    found = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
    found["output_error_p99"] = max(row["output_error_mean"] for row in rows)
    return found


def test_rows_equal_a_computation_by_hand(captures, tables):
    rows = tables["peers"].filter(pl.col("selector") == "streaming_llm", pl.col("ratio") == 0.3)
    assert rows.height == 2 * 4
    for row in rows.iter_rows(named=True):
        expected = streaming_by_hand(captures, row["layer"], row["head"], row["ratio"])
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=2e-4), (row["layer"], row["head"], name)


def test_there_is_a_row_for_every_head_selector_column_and_ratio(tables):
    # StreamingLLM knows of no mass and is alone; the two sizes of ours make one method more.
    settings = 3 * (len(SELECTORS) - 1) + 1 + 3 + len(PARAMS["caches"])
    assert tables["peers"].height == 2 * 4 * settings * len(RATIOS)
    assert tables["layers"].height == 2 * settings * len(RATIOS)
    assert set(tables["peers"]["kind"]) == {"oracle", "peer", "record", "ours"}
    assert set(tables["peers"]["column"]) == {"alone", "one_budget", "compensated"}


def test_an_index_beyond_the_budget_is_null_and_never_given_more(tables):
    # Eight fp16 components of sixteen are a quarter of K and V.
    wide = tables["peers"].filter(pl.col("variant") == "dims=8, centred=yes", pl.col("ratio") < 0.25)
    assert wide.height > 0
    assert not wide["feasible"].any()
    assert wide["output_error_mean"].null_count() == wide.height
    alone = tables["peers"].filter(pl.col("feasible"), pl.col("column") == "alone")
    assert (alone["bytes_ratio_gqa"] <= alone["ratio"] + 1e-6).all()
    # With one budget a KV head may read more than its part, and threshold texts say how much all of them do.
    keys = ["layer", "selector", "variant", "column", "ratio"]
    shared = tables["peers"].filter(pl.col("feasible"), pl.col("column") != "alone").group_by(keys)
    spent = shared.agg(pl.col("bytes_ratio_gqa").mean())
    assert (spent["bytes_ratio_gqa"] <= spent["ratio"] + 1e-6).all()


def test_ours_is_the_size_that_threshold_texts_choose(tables):
    peers, choice = tables["peers"], tables["choice"]
    # Three columns, of two layers with two KV heads, wherever a size fits.
    assert choice.select("layer", "kv_head", "column").n_unique() == 2 * 2 * 3
    keys = ["layer", "kv_head", "column", "ratio"]
    metrics = ["output_error_mean", "dropped_mass_mean", "bytes_ratio_gqa"]
    records = peers.filter(pl.col("kind") == "record").join(choice, on=[*keys, "variant"])
    ours = peers.filter(pl.col("kind") == "ours", pl.col("feasible"))
    both = ours.join(records, on=[*keys, "head", "text"], suffix="_record", validate="1:1")
    assert both.height == ours.height > 0
    for name in metrics:
        assert both[name].equals(both[f"{name}_record"].alias(name))


def test_a_quantised_cache_loses_what_rounding_does_and_nothing_else(captures, tables):
    """INT8 with a scale a token, by hand; all of K and V is read, so it fits where its bytes do and nowhere else."""
    rows = tables["peers"].filter(pl.col("selector") == "int8")
    assert set(rows.filter("feasible")["ratio"]) == set()  # 16 codes and 4 bytes of scale are 20 of 32 bytes
    rows = tables["peers"].filter(pl.col("selector") == "int3")
    assert set(rows.filter("feasible")["ratio"]) == {0.6}
    capture, row = (
        read_layer(captures[2]["folder"], 0),
        rows.filter("feasible", layer=0, head=3).row(0, named=True),
    )
    keys, values = (one[1].astype(np.float32) for one in (capture.keys, capture.values))
    keys_hat, values_hat = cache_type("int3").quantise(keys, values)
    found, spent = [], []
    for position, query in zip(capture.positions, capture.queries[3], strict=True):
        if position < START:
            continue
        token = np.arange(position + 1)
        cold = (token >= SINKS) & (token < position + 1 - HOT)
        mixed = [np.where(cold[:, None], hat[: position + 1], own[: position + 1]).astype(float)
                 for hat, own in ((keys_hat, keys), (values_hat, values))]  # fmt: skip
        outputs = []
        for k, v in (mixed, (keys[: position + 1].astype(float), values[: position + 1].astype(float))):
            mass = np.exp(k @ query.astype(float) * capture.scale)
            outputs.append(mass @ v / mass.sum())
        found.append(np.linalg.norm(outputs[0] - outputs[1]) / np.linalg.norm(outputs[1]))
        # 3 bits of 16 components and a scale of 4 bytes, twice; 64 bytes of what stays.
        spent.append((cold.sum() * 20 + (~cold).sum() * 64) / (64 * (position + 1)))
    assert row["output_error_mean"] == pytest.approx(np.mean(found), rel=1e-3)
    assert row["bytes_ratio_gqa"] == pytest.approx(np.mean(spent), rel=1e-5)
    assert (row["dropped_mass_mean"], row["fer"], row["recall_32"]) == (0, 0, 1)


def test_of_records_the_one_of_least_loss_is_chosen():
    small, large = make({"name": "ghost", "bits": 1})[1], make({"name": "ghost", "bits": 2})[1]
    choice = SizeChoice([0.1, 0.5])
    for text in (0, 1):
        for record, losses in ((small, [0.3, 0.2]), (large, [np.nan, 0.1 + 0.15 * text])):
            error = np.tile(np.array(losses)[:, None, None], (1, 2, 3))
            choice.add(0, "alone", record, {"output_error": error, "dropped_mass": error})
    tight, wide = choice.ranked(0, "alone")
    assert tight == [(small, pytest.approx(0.3))]
    assert wide == [(large, pytest.approx(0.175)), (small, pytest.approx(0.2))]
    assert [row["variant"] for row in choice.rows(7, [4])] == [small.variant, large.variant]
    # On a text that the better one does not fit, the other stands in.
    error = np.ones((2, 1, 1)) * np.array([0.3, 0.2])[:, None, None]
    sizes = {
        small: ({"fer": error}, np.array([True, True])),
        large: ({"fer": error / 2}, np.array([False, False])),
    }
    queries, feasible = chosen([tight, wide], sizes)
    assert feasible.tolist() == [True, True]
    assert queries["fer"][:, 0, 0].tolist() == [0.3, 0.2]


def test_the_layer_table_pools_its_heads(tables):
    keys = ["layer", "selector", "variant", "column", "ratio"]
    by_head = tables["peers"].group_by(keys).agg(pl.col("output_error_mean").mean().alias("mean"))
    joined = tables["layers"].join(by_head, on=keys).drop_nulls("mean")
    assert ((joined["output_error_mean"] - joined["mean"]).abs() < 1e-5).all()
    assert (joined["output_error_p99"] >= joined["output_error_mean"]).all()


def test_the_same_inputs_give_the_same_bytes(captures, folder, tables, tmp_path):
    again = tmp_path / folder.name
    run(captures, again)
    for name in TABLES:
        assert sha256_file(again / f"{name}.parquet") == sha256_file(folder / f"{name}.parquet")


def test_held_out_text_changes_nothing_that_was_calibrated(captures, tables, tmp_path):
    # Another threshold text changes what one budget buys; alone, peers that calibrate on codec texts do not notice.
    other = run([captures[0], captures[1] | {"folder": captures[0]["folder"]}, captures[2]], tmp_path)
    for selector, column, same in (
        ("loki", "alone", True), ("streaming_llm", "alone", True), ("loki", "one_budget", False),
    ):  # fmt: skip
        these = pl.col("selector") == selector, pl.col("column") == column
        mine, theirs = (t["peers"].filter(*these) for t in (tables, other))
        assert mine.equals(theirs) == same


def test_captures_without_values_have_mass_and_no_output_error(write_captures, tmp_path):
    found = run(write_captures(values=False), tmp_path, layers=(0,))
    measured = found["peers"].filter(pl.col("feasible"))
    assert measured["dropped_mass_mean"].null_count() == 0
    assert measured["output_error_mean"].null_count() == measured.height
    assert set(found["verdicts"].drop_nulls("ours")["metric"]) == {"dropped_mass_mean"}


def test_a_missing_role_is_refused_by_name(captures):
    with pytest.raises(ConfigError, match="no text has the role 'threshold'"):
        measure_layer(PeersLayer.read(PARAMS | {"captures": captures[::2], "layer": 0}), {}, {})


def test_the_interval_is_students():
    mean, low, high = interval([1.0, 2.0, 3.0])
    # t(0.975, 2) = 4.3027
    assert (mean, low, high) == pytest.approx((2, 2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), rel=1e-4)
    assert interval([1.0]) == (1.0, None, None)


def rows(errors, selector, variant="", kind="peer", feasible=True, column="alone"):
    """One layer and head on three texts."""
    return [
        {
            "selector": selector,
            "variant": variant,
            "kind": kind,
            "column": column,
            "ratio": 0.125,
            "feasible": feasible,
            "layer": 0,
            "head": 0,
            "text": f"t{i}",
            "output_error_mean": error if feasible else None,
            "dropped_mass_mean": error if feasible else None,
        }
        for i, error in enumerate(errors)
    ]


def verdict(*peer_rows):
    ours = rows([0.01, 0.02, 0.03], "ghost", kind="ours")
    peers = pl.DataFrame(ours + [row for more in peer_rows for row in more])
    return verdicts(peers, compare(peers)).row(0, named=True)


def test_a_peer_is_beaten_where_documents_agree():
    found = verdict(rows([0.51, 0.52, 0.53], "slow"))
    assert found["beaten"]
    assert not found["lost"]
    # Geometric mean over documents, by hand.
    assert found["times"] == pytest.approx((51 * 26 * 53 / 3) ** (1 / 3))
    assert found["times_low"] < found["times"] < found["times_high"]


def test_documents_that_differ_alike_leave_a_verdict_as_it_is():
    found = verdict(rows([0.015, 0.025, 0.0351], "close"))
    assert found["ours_high"] > found["theirs_low"]
    assert found["beaten"]


def test_of_a_peer_the_best_variant_counts():
    found = verdict(rows([0.5, 0.5, 0.51], "two", "a"), rows([0.001, 0.0101, 0.0205], "two", "b"))
    assert (found["variant"], found["variants"]) == ("b", 2)
    assert found["lost"]
    assert not found["beaten"]


def test_a_peer_that_is_not_feasible_is_not_counted():
    found = verdict(rows([1, 1, 1], "index", feasible=False))
    assert found["beaten"] is None
    assert found["variants"] == 0


def test_a_peer_without_a_column_stands_as_it_is_alone():
    ours = [*rows([0.01, 0.02, 0.03], "ghost", kind="ours"),
            *rows([0.001, 0.002, 0.003], "ghost", kind="ours", column="compensated")]  # fmt: skip
    peers = pl.DataFrame(ours + rows([0.1, 0.2, 0.3], "sample"))
    found = verdicts(peers, compare(peers)).sort("times")
    assert found["column"].to_list() == ["alone", "compensated"]
    assert found["theirs_column"].to_list() == ["alone", "alone"]
    assert found["times"].to_list() == pytest.approx([10, 100])


def test_many_comparisons_are_corrected_by_holm():
    # By hand: 3 x .01, then 2 x .02, then the last may not be below its predecessor.
    assert holm([0.02, 0.03, 0.01]) == pytest.approx([0.04, 0.04, 0.03])
    assert holm([0.6, None, 0.7]) == [1.0, None, 1.0]


def test_p_values_are_students():
    # t = 2 sqrt(3) on two degrees of freedom; p = 0.0742 (tables).
    assert _p_value(np.array([1.0, 2.0, 3.0])) == pytest.approx(0.07418, abs=1e-4)
    assert _p_value(np.array([1.0])) is None


def test_one_document_decides_nothing(tables):
    assert tables["verdicts"]["beaten"].null_count() == tables["verdicts"].height
    assert tables["summary"]["low"].null_count() == tables["summary"].height
    assert (
        tables["verdicts"].filter(pl.col("ratio") == 0.6, pl.col("variants") > 0)["difference"].null_count()
        == 0
    )


def test_a_selector_without_a_file_is_refused_with_those_that_exist():
    with pytest.raises(
        ConfigError, match=r"telepathy.*Accepted: .*quest[\s\S]*add ghostkv/selectors/telepathy.py"
    ):
        Peers(selectors=[{"name": "telepathy"}])


def test_ratios_out_of_order_are_refused_with_the_fix():
    with pytest.raises(ConfigError, match=r"Write: ratios: \[0.1, 0.2\]"):
        load_config({"peers": {"ratios": [0.2, 0.1]}})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_capture_that_is_not_finite_is_refused_by_layer_and_head(captures, tmp_path, bad):
    """An oracle once looked for the best of scores that are no numbers, and never came back."""
    layer = make_layer("prose_held_out_0", 0)
    layer.keys[1, 44, 0] = bad
    with CaptureWriter(tmp_path / "text", 16, 16, {}) as writer:
        writer.append(layer, PROOF)
    sketch = make_sketch(captures, 0, CODECS, tmp_path)
    spoiled = [*captures[:2], captures[2] | {"folder": str(tmp_path / "text")}]
    outputs = {name: str(tmp_path / f"{name}.parquet") for name in PeersLayer.tables}
    with pytest.raises(CaptureError, match="layer 0, KV head 1: the keys hold (nan|inf) at position 44"):
        measure_layer(PeersLayer.read(PARAMS | {"captures": spoiled, "layer": 0}), sketch, outputs)
    assert not list(tmp_path.glob("*.parquet"))


def test_of_a_threshold_text_no_more_queries_are_held_than_of_a_held_out_text(
    captures, tmp_path, monkeypatch
):
    def thinned(*roles):
        def read(folder, layer):
            capture = read_layer(folder, layer)
            return capture.at(slice(None, None, 2)) if any(role in folder for role in roles) else capture

        return read

    monkeypatch.setattr("ghostkv.stages.peers.layer._QUERIES", 1)
    found = []
    for roles in (("held_out",), ("held_out", "threshold")):
        monkeypatch.setattr("ghostkv.stages.peers.layer.read_layer", thinned(*roles))
        (folder := tmp_path / roles[-1]).mkdir()
        found.append(run(captures, folder, layers=(0,))["peers"])
    assert found[0].equals(found[1])
