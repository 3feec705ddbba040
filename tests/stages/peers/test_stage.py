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
from ghostkv.stages.peers.gather import gather
from ghostkv.stages.peers.jobs import GatherPeers, PeersLayer
from ghostkv.stages.peers.layer import measure_layer
from ghostkv.stages.peers.tables import compare, interval, verdicts
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
    "seed": 0,
    "sinks": SINKS,
    "hot": HOT,
    "top_k": TOP_K,
    "headline_start": START,
    "sketched": CODECS,
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
                "bytes_ratio": kept.sum() / visible,
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


def test_there_is_a_row_for_every_head_selector_and_ratio(tables):
    assert tables["peers"].height == 2 * 4 * len(SELECTORS) * len(RATIOS)
    assert tables["layers"].height == 2 * len(SELECTORS) * len(RATIOS)
    assert set(tables["peers"]["kind"]) == {"oracle", "peer", "ours"}


def test_an_index_beyond_the_budget_is_null_and_never_given_more(tables):
    # Eight fp16 components of sixteen are a quarter of K and V.
    wide = tables["peers"].filter(pl.col("variant") == "dims=8, centred=yes", pl.col("ratio") < 0.25)
    assert wide.height > 0
    assert not wide["feasible"].any()
    assert wide["output_error_mean"].null_count() == wide.height
    measured = tables["peers"].filter(pl.col("feasible"))
    assert (measured["bytes_ratio"] <= measured["ratio"] + 1e-6).all()


def test_a_group_reads_at_least_as_much_as_its_heads_on_average(tables):
    measured = tables["peers"].filter(pl.col("feasible"))
    assert (measured["bytes_ratio_gqa"] >= measured["bytes_ratio"] - 1e-6).all()


def test_the_layer_table_pools_its_heads(tables):
    keys = ["layer", "selector", "variant", "ratio"]
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
    # Another threshold text changes what ours reads; peers that calibrate on codec texts do not notice.
    other = run([captures[0], captures[1] | {"folder": captures[0]["folder"]}, captures[2]], tmp_path)
    for selector, same in (("loki", True), ("streaming_llm", True), ("ghost", False)):
        mine, theirs = (t["peers"].filter(pl.col("selector") == selector) for t in (tables, other))
        assert mine.equals(theirs) == same


def test_captures_without_values_have_mass_and_no_output_error(write_captures, tmp_path):
    found = run(write_captures(values=False), tmp_path, layers=(0,))
    measured = found["peers"].filter(pl.col("feasible"))
    assert measured["dropped_mass_mean"].null_count() == 0
    assert measured["output_error_mean"].null_count() == measured.height
    assert found["verdicts"]["beaten"].null_count() == found["verdicts"].height


def test_a_missing_role_is_refused_by_name(captures):
    with pytest.raises(ConfigError, match="no text has the role 'threshold'"):
        measure_layer(PeersLayer.read(PARAMS | {"captures": captures[::2], "layer": 0}), {}, {})


def test_the_interval_is_students():
    mean, low, high = interval([1.0, 2.0, 3.0])
    # t(0.975, 2) = 4.3027
    assert (mean, low, high) == pytest.approx((2, 2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), rel=1e-4)
    assert interval([1.0]) == (1.0, None, None)


def rows(errors, selector, variant="", kind="peer", feasible=True):
    """One layer and head on three texts."""
    return [
        {
            "selector": selector,
            "variant": variant,
            "kind": kind,
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


def test_a_peer_is_beaten_where_the_intervals_lie_apart():
    found = verdict(rows([0.51, 0.52, 0.53], "slow"))
    assert found["beaten"]
    assert found["beaten_paired"]


def test_documents_that_differ_widen_intervals_but_not_paired_ones():
    found = verdict(rows([0.015, 0.025, 0.0351], "close"))
    assert found["beaten"] is False
    assert found["beaten_paired"]


def test_a_peer_with_one_better_variant_is_not_beaten():
    found = verdict(rows([0.5, 0.5, 0.51], "two", "a"), rows([0.001, 0.001, 0.002], "two", "b"))
    assert found["beaten"] is False
    assert found["lower"] is False
    assert found["variants"] == 2


def test_a_peer_that_is_not_feasible_is_not_counted():
    found = verdict(rows([1, 1, 1], "index", feasible=False))
    assert found["beaten"] is None
    assert found["variants"] == 0


def test_one_document_decides_nothing(tables):
    assert tables["verdicts"]["beaten"].null_count() == tables["verdicts"].height
    assert tables["summary"]["low"].null_count() == tables["summary"].height
    assert tables["verdicts"].filter(pl.col("ratio") == 0.6)["lower"].null_count() == 0


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

    found = []
    for roles in (("held_out",), ("held_out", "threshold")):
        monkeypatch.setattr("ghostkv.stages.peers.layer.read_layer", thinned(*roles))
        (folder := tmp_path / roles[-1]).mkdir()
        found.append(run(captures, folder, layers=(0,))["peers"])
    assert found[0].equals(found[1])
