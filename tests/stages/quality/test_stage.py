"""Quality: a random model on three texts, every kind of policy, and what its tables must be to each other."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import yaml

from ghostkv.config.experiment import load_config
from ghostkv.config.policies import (
    CalibratedPolicy,
    CertifiedMassPolicy,
    GhostPolicy,
    IdentityPolicy,
    QuantisedPolicy,
    SelectorPolicy,
)
from ghostkv.config.quality import Quality
from ghostkv.config.resolved import resolve
from ghostkv.elimination.intervals import over_documents
from ghostkv.elimination.schemas import POINT_SCHEMA
from ghostkv.files.errors import ConfigError, ModelError, TextError
from ghostkv.files.io import read_table
from ghostkv.files.tables import write_rows
from ghostkv.runtime import ghost_decider
from ghostkv.stages.capture.jobs import CaptureText
from ghostkv.stages.quality.families import family_of
from ghostkv.stages.quality.fit import fit_policies
from ghostkv.stages.quality.gather import gather
from ghostkv.stages.quality.jobs import FitPolicies, GatherQuality, QualityTexts
from ghostkv.stages.quality.policies import Policies
from ghostkv.stages.quality.setup import sources_of, token_ids
from ghostkv.stages.quality.tables import MeasuredBlocks, compare_at_equal_bytes
from ghostkv.stages.quality.text import measure_texts
from ghostkv.stages.run import Run
from ghostkv.stages.sketch.jobs import SketchLayer
from tests.stages.conftest import write_texts

TOKENS, CONTINUATION = 320, 48
POLICIES = [
    {"label": "identity", "policy": "identity"},
    {"label": "mass", "policy": "certified_mass", "delta": 0.01, "positions": 12, "hot": 64},
    {"label": "ghost", "policy": "ghost", "ratio": 0.4},
    {"label": "ghost_more", "policy": "ghost", "ratio": 0.7},
    {"label": "oracle", "policy": "oracle_mass", "delta": 0.01},
    {"label": "int4", "policy": "quantised", "cache": "int4"},
    {"label": "int8", "policy": "quantised", "cache": "int8", "positions": 24},
    {"label": "over_fp8", "policy": "ghost", "theta": -1.0, "cache": "fp8"},
    {"label": "all_sparse", "policy": "ghost", "theta": -2.0, "prefill": "sparse"},
    *[
        {"label": f"quest_{i}", "policy": "selector", "selector": {"name": "quest", "page": 8}, "ratio": ratio}
        for i, ratio in enumerate((0.2, 0.4, 0.8))
    ],
    {"label": "snapkv", "policy": "selector", "selector": {"name": "snapkv", "observe": 8}, "ratio": 0.4},
]  # fmt: skip
CONFIG = {
    "model": {"name": "tiny-llama"},
    "capture": {"tokens": TOKENS, "query_bands": [{"start": 32, "stop": TOKENS, "count": 40}]},
    "texts": {
        "domains": [],
        "custom": [
            {"domain": "prose", "role": role, "path": f"tests/config/texts/{name}.txt"}
            for role, name in (("codec", "harbour"), ("threshold", "orchard"), ("held_out", "survey"))
        ],
    },
    "trace": {"path": "tests/config/texts/market.txt", "tokens": TOKENS},
    "sketch": {"codecs": [{"name": "transform_code", "bits": [1]}]},
    "frontier": {"hot": 8, "top_k": 8, "headline_start": 64},
    "quality": {
        "policies": POLICIES, "continuation": CONTINUATION, "block": 8, "replicates": 60,
        "ablation": {"policy": "ghost", "band": 1, "positions": 16},
        "generation": {"policies": ["identity", "ghost"], "tokens": 5},
        "headline": {"identity": "identity", "mass": "mass", "budget": "ghost"},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A run of the whole stage: tables by name, and what it was made from."""
    from ghostkv.models.random import make_random

    folder, whole = tmp_path_factory.mktemp("quality"), Run.resolve(CONFIG, "resources")
    entry = {"architecture": "llama", "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "window": None,
             "max_context": 512, "seed": 0}  # fmt: skip
    (folder / "model").mkdir()
    make_random(entry, folder / "model")
    return run(folder, whole, captured(folder, whole))


def captured(folder, whole):
    """Captures and sketch of the model in a folder: what the stage's jobs read, by name."""
    from ghostkv.models.manifest import write_manifest
    from ghostkv.stages.capture.text import capture_text
    from ghostkv.stages.sketch.layer import sketch_layer

    # The captures of this folder stand where the workflow has its own.
    vars(whole)["captures"] = tuple(
        replace(one, folder=str(folder / "capture" / one.text)) for one in whole.captures
    )
    model = folder / "model"
    write_manifest(model, {"model": "tiny"})
    rows = [
        {"text": name, "domain": "prose", "role": text["role"],
         "content": Path(text["custom"]["path"]).read_text(encoding="utf-8")}
        for name, text in whole.texts.items()
    ]  # fmt: skip
    write_texts(rows, folder / "texts.parquet")
    inputs = {"manifest": str(model / "manifest.json"), "texts": str(folder / "texts.parquet"), "codecs": []}
    inputs |= {name: str(folder / f"{name}.parquet") for name in (*FitPolicies.tables, "points")}
    for one in whole.captures:
        files = {name: f"{one.folder}/{name}.parquet" for name in ("kv", "queries", "layers")}
        capture_text(CaptureText.of(whole, text=one.text), inputs, files)
    for layer in whole.layer_names():
        files = {name: str(folder / layer / name) for name in ("codecs", "records")}
        sketch_layer(SketchLayer.of(whole, layer=layer), {}, files)
        inputs["codecs"].append(files["codecs"])
    return inputs


def run(folder, whole, inputs, into="out"):
    fit_policies(FitPolicies.of(whole), inputs, {name: inputs[name] for name in FitPolicies.tables})
    outputs = {name: str(folder / into / f"{name}.parquet") for name in QualityTexts.tables}
    measure_texts(QualityTexts.of(whole, part="prose_0"), inputs, outputs)
    paths = {name: str(folder / into / f"all_{name}.parquet") for name in GatherQuality.tables}
    gather(GatherQuality.of(whole), {name: [path] for name, path in outputs.items()}, paths)
    tables = {name: read_table(path) for name, path in paths.items()}
    return {"tables": tables, "paths": paths, "inputs": inputs, "folder": folder, "run": whole}


@pytest.fixture
def tables(stage):
    return stage["tables"]


def of(table, policy):
    return table.filter(pl.col("policy") == policy)


def test_identity_says_what_the_model_says(tables):
    rows = of(tables["positions"], "identity")
    assert rows.height == CONTINUATION
    assert rows["max_logit_difference"].max() < 1e-3
    assert rows["kl"].max() < 1e-8
    assert rows["agree"].all()
    assert of(tables["runs"], "identity")["bytes_ratio_gqa"][0] > 1


def test_a_hybrid_is_measured_by_its_layers_that_attend(tmp_path):
    from ghostkv.models.tokenizer import save_byte_tokenizer
    from tests.survey.tiny import tiny_model

    tiny_model("lfm2").save_pretrained(tmp_path / "model")
    save_byte_tokenizer(tmp_path / "model", 512)
    labels = ("identity", "ghost", "snapkv")
    quality = CONFIG["quality"] | {
        "policies": [one for one in POLICIES if one["label"] in labels],
        "headline": dict.fromkeys(("identity", "mass"), "identity") | {"budget": "ghost"},
    }
    custom = {"source": "path", "path": str(tmp_path / "model")}
    whole = Run.resolve(
        CONFIG | {"model": {"name": "mine", "custom": custom}, "quality": quality}, "resources"
    )
    assert whole.layers == (1, 3)
    inputs = captured(tmp_path, whole)
    fit_policies(FitPolicies.of(whole), inputs, {name: inputs[name] for name in FitPolicies.tables})
    outputs = {name: str(tmp_path / f"{name}.parquet") for name in QualityTexts.tables}
    measure_texts(QualityTexts.of(whole, part="prose_0"), inputs, outputs)
    tables = {name: read_table(path) for name, path in outputs.items()}
    assert of(tables["positions"], "identity")["kl"].max() < 1e-8
    traffic = tables["traffic"].sort("policy", "layer")
    assert traffic["layer"].to_list() == [1, 3] * 3
    assert of(tables["runs"], "ghost")["bytes_ratio_gqa"][0] == pytest.approx(0.4, abs=0.1)
    assert tables["ablation"]["first_layer"].to_list() == [1, 3]


def test_a_context_that_nobody_watches_is_what_was_captured(stage, tmp_path):
    """The model says the same over the captured K and V as over those that it reads, but for their rounding to float16."""
    job = QualityTexts.of(stage["run"], part="prose_0")
    few = [one for one in job.texts[0].policies if one.policy.label in ("identity", "ghost", "mass")]
    job = replace(job, texts=(replace(job.texts[0], policies=tuple(few)),))
    found = {}
    for cache_dtype in ("float16", "model"):
        outputs = {name: str(tmp_path / f"{cache_dtype}_{name}.parquet") for name in QualityTexts.tables}
        measure_texts(replace(job, cache_dtype=cache_dtype), stage["inputs"], outputs)
        found[cache_dtype] = read_table(outputs["positions"])
    held, own = (found[name].sort("policy", "position") for name in ("float16", "model"))
    assert of(held, "identity")["kl"].max() < 1e-8
    difference = (held["dense_nll"] - own["dense_nll"]).drop_nulls().abs()
    assert 0 < difference.max() < 5e-3
    for policy in ("ghost", "mass"):
        assert of(held, policy)["kl"].mean() == pytest.approx(of(own, policy)["kl"].mean(), rel=0.2)


def test_heads_that_stay_dense_are_found_once_and_read_whole(stage, tmp_path):
    """Heads that no threshold serves keep all: with records on top that is more than their K and V, so they stay dense."""
    kept = {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3)}
    points = [
        {
            "layer": layer, "head": head, "kv_head": head // 2, "codec": "transform_code", "code_bytes": 2, "rule": "relative_lse",
            "target_metric": "dropped_mass", "target": 0.01, "method": "calibrated", "theta": None if (layer, head) in kept else -4.0,
        }
        for layer, head in np.ndindex(2, 4)
    ]  # fmt: skip
    inputs = stage["inputs"] | {
        name: str(tmp_path / f"{name}.parquet") for name in (*FitPolicies.tables, "points")
    }
    write_rows(points, inputs["points"], POINT_SCHEMA, {})
    entry = CalibratedPolicy(label="calibrated", target_metric="dropped_mass", target=0.01)
    calibrated = resolve(entry, stage["run"].config)
    job = replace(FitPolicies.of(stage["run"]), policies=(calibrated,))
    fit_policies(job, inputs, {name: inputs[name] for name in FitPolicies.tables})
    dense = read_table(inputs["dense"])
    assert dense.select("policy", "layer", "kv_head").rows() == [
        ("calibrated", *at) for at in ((0, 0), (1, 0), (1, 1))
    ]
    # A record of 3 bytes beside 64 of K and V, for all but sinks and hot window.
    assert dense["bytes_ratio_gqa"].min() > 1.03
    assert dense["bytes_ratio_gqa"].max() < 1 + 3 / 64
    assert read_table(inputs["thetas"]).is_empty()
    made = Policies([calibrated], inputs, sources_of(job, inputs)).make("calibrated")
    assert made.dense_layers == (1,)
    assert {layer: set(heads) for layer, heads in made.dense_heads.items()} == {0: {0}}
    rows = of(stage["tables"]["traffic"], "mass")
    assert not rows["dense"].any()
    assert (rows["dense_share"] == 0.0).all()


def test_identity_is_checked_from_the_start_and_after_the_context(tables):
    rows = tables["identity"]
    assert rows["context"].to_list() == [192, TOKENS - CONTINUATION]
    assert rows["steps"].to_list() == [8, 8]
    assert rows["prefill_difference"].is_null().to_list() == [False, True]
    for name in ("prefill_difference", "block_difference", "step_difference", "own_difference"):
        assert (rows[name].drop_nulls() < 1e-4).all()
        assert (rows[name].drop_nulls() <= rows["bound"]).all()


def test_a_model_that_is_not_itself_is_not_measured(stage, tmp_path, monkeypatch):
    """A step that reads one key too few: blocks are right, and nothing is written."""
    kernel = ghost_decider.ghost_attend

    def wrong(query, cache, *rest):
        kernel(query, cache, *rest)
        if query.shape[2] == 1:
            rest[-2][...] *= 1.05

    monkeypatch.setattr(ghost_decider, "ghost_attend", wrong)
    outputs = {name: str(tmp_path / f"{name}.parquet") for name in QualityTexts.tables}
    with pytest.raises(ModelError, match="step_difference"):
        measure_texts(QualityTexts.of(stage["run"], part="prose_0"), stage["inputs"], outputs)
    assert not list(tmp_path.iterdir())


def test_how_the_context_was_read_and_what_was_certified_stand_beside_every_result(tables):
    for table in ("runs", "summary"):
        sparse = tables[table].filter(pl.col("prefill") == "sparse")["policy"].unique().to_list()
        assert sparse == ["all_sparse"], table
        certified = tables[table].filter(pl.col("certified").is_not_null())
        assert certified["policy"].unique().to_list() == ["mass"], table
        assert 0 < certified["certified"].max() <= 0.01 + 1e-9
        assert tables[table]["violated"].sum() == 0
    by_layer = of(tables["traffic"], "mass")["certified"]
    assert by_layer.max() == of(tables["runs"], "mass")["certified"][0]


def test_every_policy_has_its_positions_and_every_layer_its_bytes(tables):
    count = dict(tables["positions"].group_by("policy").len().iter_rows())
    assert count == {one["label"]: one.get("positions", CONTINUATION) for one in POLICIES}
    assert tables["traffic"].height == 2 * len(POLICIES)
    for row in tables["runs"].filter(pl.col("kind") != "identity").iter_rows(named=True):
        layers = of(tables["traffic"], row["policy"])["bytes_ratio_gqa"]
        assert layers.min() - 1e-9 <= row["bytes_ratio_gqa"] <= layers.max() + 1e-9
        assert 0 < row["kept_fraction"] <= 1


def test_positions_are_those_of_the_text_and_the_last_has_a_next_token(tables):
    rows = of(tables["positions"], "ghost")
    assert rows["position"].to_list() == list(range(TOKENS - CONTINUATION, TOKENS))
    # The file goes on, so that the last token has a successor.
    assert rows["dense_nll"].null_count() == 0
    assert (rows["kl"] >= 0).all()
    assert rows["kl"].max() > 0


def test_more_bytes_lose_less(tables):
    kl = {row["policy"]: row["kl"] for row in tables["summary"].iter_rows(named=True)}
    assert kl["ghost_more"] < kl["ghost"]
    assert kl["quest_2"] < kl["quest_0"]


def test_the_certificate_stands_beside_the_numbers(tables):
    row = of(tables["summary"], "mass").row(0, named=True)
    assert "dropped mass <= 0.01 for every query" in row["certificate"]
    assert of(tables["summary"], "ghost")["certificate"][0] == "none"
    assert row["positions"] == 12


def test_the_summary_is_the_mean_of_positions_within_its_interval(tables):
    for row in tables["summary"].iter_rows(named=True):
        rows = of(tables["positions"], row["policy"])
        assert row["kl"] == pytest.approx(rows["kl"].mean(), rel=1e-9)
        assert row["top1"] == pytest.approx(rows["agree"].mean(), rel=1e-9)
        assert row["sparse_perplexity"] == pytest.approx(np.exp(rows["sparse_nll"].mean()), rel=1e-9)
        assert row["kl_low"] <= row["kl"] * (1 + 1e-9)
        assert row["kl"] <= row["kl_high"] * (1 + 1e-9)
        assert row["kl_max"] >= row["kl_p99"] >= 0


def test_bands_of_the_ablation_cover_all_layers_once(tables):
    rows = tables["ablation"]
    assert rows["first_layer"].to_list() == rows["last_layer"].to_list() == [0, 1]
    assert (rows["bytes_ratio_gqa"] < 1).all()
    assert (rows["positions"] == 16).all()


def test_identity_generates_the_dense_text(tables):
    rows = {row["policy"]: row for row in tables["generations"].iter_rows(named=True)}
    assert set(rows) == {"dense", "identity", "ghost"}
    assert rows["identity"]["output"] == rows["dense"]["output"]
    assert rows["identity"]["same"] == rows["identity"]["tokens"] == 5
    assert rows["dense"]["bytes_ratio_gqa"] == 1


def test_ours_is_held_against_quest_at_its_own_bytes(tables):
    row = (
        tables["equal_bytes"]
        .filter(pl.col("policy") == "ghost", pl.col("against").str.starts_with("quest"))
        .row(0, named=True)
    )
    assert row["lowest"] <= row["bytes_ratio_gqa"] <= row["highest"]
    quest = tables["summary"].filter(pl.col("policy").str.starts_with("quest"))
    assert quest["kl"].min() <= row["their_kl"] <= quest["kl"].max()
    assert row["kl_ratio"] == pytest.approx(row["their_kl"] / row["kl"])
    # One budget is no curve, so SnapKV has no value at other bytes.
    other = tables["equal_bytes"].filter(pl.col("policy") == "ghost", pl.col("against") == "snapkv_observe_8")
    assert other["their_kl"].null_count() == 1


def test_a_text_measured_again_gives_the_same_numbers(stage):
    again = run(stage["folder"], stage["run"], stage["inputs"], "again")
    for name in ("positions", "traffic", "ablation", "summary", "equal_bytes"):
        assert read_table(again["paths"][name]).equals(read_table(stage["paths"][name])), name


def test_a_text_that_is_too_short_is_refused_with_the_length_it_has():
    class Words:
        def first(self, content, tokens):
            return list(range(len(content.split())))[:tokens]

    job = SimpleNamespace(context=4, continuation=2)
    with pytest.raises(TextError, match=r"has 3 tokens.*\n.*Write: tokens: 3"):
        token_ids(Words(), "one two three", "prose_held_out_0", job)


def test_quantised_caches_read_all_of_it_in_their_own_bytes(tables):
    runs = {row["policy"]: row for row in tables["runs"].iter_rows(named=True)}
    for label, pair in (("int4", 16 / 2 + 4), ("int8", 16 + 4)):
        run = runs[label]
        assert (run["kept_fraction"], run["kind"]) == (1.0, "peer")
        # Of some 300 tokens 12 are in fp16; the others a key and a value of 16 numbers, 4 bytes of scale and zero point each.
        assert run["bytes_ratio_gqa"] == pytest.approx(2 * pair / 64 * (1 - 12 / 296) + 12 / 296, abs=2e-3)
    kl = dict(tables["positions"].group_by("policy").agg(pl.col("kl").mean()).iter_rows())
    assert 0 < kl["int8"] < kl["int4"]
    over = runs["over_fp8"]
    assert over["kept_fraction"] < 1
    # Records of 3 bytes, and all else but the sinks at half.
    assert over["bytes_ratio_gqa"] < 0.5 * over["kept_fraction"] * 2 + 3 / 64
    assert set(tables["equal_bytes"]["against"]) >= {"quantised_int"}


def test_jobs_come_back_from_plain_params(stage):
    whole = stage["run"]
    for job in (
        FitPolicies.of(whole),
        QualityTexts.of(whole, part="prose_0"),
        GatherQuality.of(whole),
    ):
        params = job.params()
        assert params.pop("job") == f"ghostkv.stages.quality.jobs.{type(job).__name__}"
        assert replace(type(job).read(params), code="") == job
    texts = QualityTexts.of(whole, part="prose_0")
    assert {"ghostkv.codecs.transform_code", "ghostkv.selectors.quest", "ghostkv.selectors.snapkv"} <= set(
        texts.uses
    )
    assert [one.policy.hot for one in texts.texts[0].policies] == [8, 64, *[8] * 11]


def test_a_family_is_named_by_every_option_that_is_not_the_methods_own():
    config = load_config({"frontier": {"hot": 16}})
    families = {
        "identity": IdentityPolicy(hot=16),
        "identity_hot_64": IdentityPolicy(hot=64),
        "ghost": GhostPolicy(ratio=0.3),
        "ghost_plain": GhostPolicy(ratio=0.3, compensate=False),
        "ghost_prefill_sparse_bits_0.5": GhostPolicy(theta=1, bits=0.5, prefill="sparse"),
        "ghost_dense_layers_0_1": GhostPolicy(ratio=0.3, dense_layers=[0, 1]),
        "ghost_cache_int8": GhostPolicy(theta=0.0, cache="int8"),
        "quantised_int": QuantisedPolicy(cache="int3"),
        "quantised_fp8": QuantisedPolicy(cache="fp8"),
        "quantised_kivi2_sinks_0": QuantisedPolicy(cache="kivi2", sinks=0),
        "certified_mass_levels_2.0_shares_0.5": CertifiedMassPolicy(levels=[2], shares=[0.5]),
        "quest": {"name": "quest"},
        "quest_page_8": {"name": "quest", "page": 8},
        "h2o": {"name": "h2o", "recent": 0.5},
        "h2o_0.0": {"name": "h2o"},
        "snapkv": {"name": "snapkv", "observe": 32},
        "snapkv_observe_8_kernel_3": {"name": "snapkv", "observe": 8, "kernel": 3},
        "ghost_bits_0.5_codec_transform_code_alone": {"name": "ghost", "bits": 0.5},
        "pq_compensated": SelectorPolicy(selector={"name": "pq"}, ratio=0.2, column="compensated"),
    }  # fmt: skip
    for family, one in families.items():
        policy = SelectorPolicy(selector=one, ratio=0.2) if isinstance(one, dict) else one
        assert family_of(resolve(policy, config), config) == family
    found = {entry.label: family_of(resolve(entry, config), config) for entry in config.quality.policies}
    assert {
        "identity", "certified_mass", "calibrated", "oracle_mass", "quest", "streaming_llm", "h2o", "snapkv", "pq",
        "pq_one_budget", "pq_compensated", "ghost", "quantised_int", "quantised_fp8", "ghost_cache_fp8",
    } <= set(found.values())  # fmt: skip


def test_a_policy_on_fewer_positions_is_compared_on_those_alone():
    rows = [
        {"text": "a", "domain": "d", "policy": policy, "position": 10 + i, "kl": kl[i], "agree": True,
         "dense_nll": 1.0, "sparse_nll": 1.0}
        for policy, kl in (("ours", [0.1] * 4 + [9.0] * 4), ("few", [0.2] * 4), ("few_more", [0.1] * 4))
        for i in range(len(kl))
    ]  # fmt: skip
    measured = MeasuredBlocks.read(pl.DataFrame(rows), 4, 20, 0)
    about = [("ours", "ours", "ours", 0.2), ("few", "peer", "p", 0.1), ("few_more", "peer", "p", 0.4)]
    summary = pl.DataFrame(
        [
            {
                "policy": policy,
                "kind": kind,
                "family": family,
                "domain": "all",
                "bytes_ratio_gqa": ratio,
                "positions": 8,
            }
            for policy, kind, family, ratio in about
        ]
    ).with_columns(
        pl.Series("kl", measured.mean("kl", "all")), pl.Series("top1", measured.mean("top1", "all"))
    )
    row = compare_at_equal_bytes(summary, measured).row(0, named=True)
    assert row["kl"] == pytest.approx(0.1)
    assert row["positions"] == 4
    assert row["their_kl"] == pytest.approx(0.2**0.5 * 0.1**0.5)


def test_the_ratio_of_kls_has_student_s_interval_over_documents():
    """At bytes that the peer has itself nothing is interpolated, and with alike documents the jackknife is the plain mean."""
    rng = np.random.default_rng(4)
    ours, theirs = rng.uniform(0.1, 0.12, 6), rng.uniform(1.0, 1.2, 6)
    rows = [
        {
            "text": f"t{text}", "domain": "ab"[text % 2], "policy": policy, "position": position, "kl": float(kl[text]),
            "agree": True, "dense_nll": 1.0, "sparse_nll": 1.0,
        }
        for policy, kl in (("ours", ours), ("peer", theirs))
        for text in range(6)
        for position in range(4)
    ]  # fmt: skip
    measured = MeasuredBlocks.read(pl.DataFrame(rows), 4, 20, 0)
    about = {"domain": "all", "bytes_ratio_gqa": 0.2, "positions": 24}
    summary = pl.DataFrame(
        [
            about | {"policy": "ours", "kind": "ours", "family": "o"},
            about | {"policy": "peer", "kind": "peer", "family": "p"},
        ]
    )
    row = compare_at_equal_bytes(summary, measured).row(0, named=True)
    assert row["documents"] == 6
    assert row["kl_ratio"] == pytest.approx(theirs.mean() / ours.mean())
    _, low, high = over_documents(theirs / theirs.mean() - ours / ours.mean())
    assert np.log(row["kl_ratio_low"] / row["kl_ratio"]) == pytest.approx(low, rel=0.05)
    assert np.log(row["kl_ratio_high"] / row["kl_ratio"]) == pytest.approx(high, rel=0.05)
    spread = np.std(theirs / theirs.mean() - ours / ours.mean(), ddof=1)
    assert row["kl_log_ratio_deviation"] == pytest.approx(spread, rel=0.05)
    assert measured.deviation("kl", "all") == pytest.approx([ours.std(ddof=1), theirs.std(ddof=1)])
    assert np.isnan(MeasuredBlocks.read(pl.DataFrame(rows[:4]), 4, 20, 0).deviation("kl", "all")).all()


def test_a_policy_of_some_texts_counts_those_that_it_decoded():
    rows = [
        {
            "text": f"t{text}", "domain": "a", "policy": policy, "position": position, "kl": 0.1 * (1 + text), "agree": True,
            "dense_nll": 1.0, "sparse_nll": 1.0,
        }
        for policy, texts in (("every", 3), ("first", 1))
        for text in range(texts)
        for position in range(4)
    ]  # fmt: skip
    measured = MeasuredBlocks.read(pl.DataFrame(rows), 4, 20, 0)
    assert measured.decoded("all").tolist() == [3, 1]
    assert measured.mean("kl", "all") == pytest.approx([0.2, 0.1])
    every, first = measured.deviation("kl", "all")
    assert every == pytest.approx(0.1)
    assert np.isnan(first)


def test_what_no_claim_is_made_of_runs_on_the_first_texts_of_a_domain():
    quality = load_config({}).quality
    first, second = quality.of_text(0), quality.of_text(1)
    assert first.policies == quality.policies
    assert {one.label for one in second.policies} == {
        one.label for one in quality.policies if one.texts is None
    }
    assert (first.ablation.policy, second.ablation.policy) == (quality.ablation.policy, None)
    assert (first.generation.tokens, second.generation.tokens) == (quality.generation.tokens, 0)
    # What headline figures quote, and the curve that it is held against, is measured on every text.
    quoted = {label for key, label in quality.headline.items() if key != "peer"}
    quest = {one.label for one in quality.policies if one.label.startswith("quest")}
    assert quoted | quest <= {one.label for one in second.policies}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"policies": [{"label": "a", "policy": "identity", "texts": 1}]}, "Write: texts: null"),
        (
            {
                "policies": [
                    {"label": "a", "policy": "identity", "texts": 2},
                    {"label": "b", "policy": "identity"},
                ],
                "generation": {"policies": ["a"], "texts": 3},
            },
            "Write: texts: 2",
        ),
    ],
)
def test_texts_that_nothing_is_measured_on_are_refused(changes, said):
    rest = {"ablation": {"policy": None}, "generation": {"policies": []}}
    quoted = {"identity": "a", "mass": "a", "budget": "a", "peer": "a"}
    with pytest.raises(ConfigError, match=said):
        Quality(**rest | {"headline": quoted} | changes)


def test_a_label_twice_or_a_headline_without_a_policy_is_refused():
    one = {"label": "a", "policy": "identity"}
    rest = {"ablation": {"policy": None}, "generation": {"policies": []}}
    with pytest.raises(ConfigError, match=r"quality.policies[\s\S]*not a twice"):
        load_config({"quality": {"policies": [one, one]}})
    with pytest.raises(ConfigError, match="headline.budget is b, and no policy"):
        Quality(policies=[one], headline={"budget": "b"}, **rest)
    quoted = {"identity": "a", "mass": "a", "budget": "a"}
    with pytest.raises(ConfigError, match="headline lacks mass"):
        Quality(policies=[one], headline={"identity": "a", "budget": "a"}, **rest)
    with pytest.raises(ConfigError, match="headline has best"):
        Quality(policies=[one], headline=quoted | {"best": "a"}, **rest)


def test_a_continuation_that_leaves_no_context_is_refused():
    raw = yaml.safe_load("quality: {continuation: 3000}")
    with pytest.raises(ConfigError, match="at most 2048"):
        load_config(raw)
