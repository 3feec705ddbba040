"""The synthetic stage: its numbers equal a plain computation, its closed forms can fail, and it repeats itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import ndtr

from ghostkv.captures.generated import Shape, last_queries
from ghostkv.captures.generators import make
from ghostkv.codecs.fitting import fit
from ghostkv.codecs.records import CodecSpec
from ghostkv.config.experiment import load_config
from ghostkv.config.synthetic import Synthetic
from ghostkv.elimination.frontier import Design, Setting, estimate_group, view_group
from ghostkv.elimination.grid import Grid
from ghostkv.files.errors import ConfigError
from ghostkv.files.io import read_table, sha256_file
from ghostkv.stages.run import Run
from ghostkv.stages.synthetic.gather import gather
from ghostkv.stages.synthetic.generator import measure_generator
from ghostkv.stages.synthetic.jobs import GatherSynthetic, MeasureGenerator
from ghostkv.stages.synthetic.measures import ColdScores, average_ranks, step_columns
from ghostkv.stages.synthetic.schemas import SCHEMAS
from ghostkv.stages.synthetic.tables import compare, normal_sigma

TINY = {
    "tokens": 512,
    "head_dim": 16,
    "generators": [{"name": "gaussian"}, {"name": "needles", "count": 4}],
    "codecs": [{"name": "gaussian", "bits": [2]}, {"name": "transform_code", "bits": [2]}],
    "top": [4, 8],
    "audit": {"draws": 3, "queries": 16},
    "tradeoff": {"draws": 2, "queries": 64, "contexts": [256, 512]},
    "decode": {"draws": 1, "start": 256, "steps": 300, "ask_every": 5},
}
FRONTIER = {
    "hot": 16,
    "top_k": 8,
    "targets": {"fer": [0.05], "dropped_mass": [0.05]},
    "headline": {"codec": "transform_code", "bits": 2, "rule": "relative_topk"},
    "headline_start": 256,
}
CONFIG = load_config(
    {
        "synthetic": TINY,
        "frontier": FRONTIER,
        "sketch": {"codecs": [{"name": "transform_code", "bits": [2]}]},
    }
)


def job(label="gaussian"):
    return replace(MeasureGenerator.of(Run(CONFIG, None, (0,), {}, {}), label), code="f")


def run(folder, labels=("gaussian", "needles")):
    made = {}
    for label in labels:
        made[label] = {name: str(folder / label / f"{name}.parquet") for name in SCHEMAS}
        measure_generator(job(label), {}, made[label])
    files = {name: [made[label][name] for label in labels] for name in SCHEMAS}
    outputs = {name: str(folder / f"{name}.parquet") for name in GatherSynthetic.tables}
    gather(GatherSynthetic(), files, outputs)
    return outputs


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return run(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture(scope="module")
def tables(outputs):
    return {name: read_table(path) for name, path in outputs.items()}


def test_every_closed_form_is_kept_and_no_margin_is_broken(tables):
    exact = tables["checks"].filter(pl.col("kind") == "exact")
    # Ranks and error of one projection; elimination and FER at five thetas.
    assert exact.height == 4 + 10
    assert exact["sigma"].null_count() == 0
    assert exact["sigma"].max() < exact["limit"][0]
    assert tables["audit"].filter(pl.col("measure") == "violations")["value"].sum() == 0


def test_a_wrong_closed_form_is_noticed(tables):
    audit = tables["audit"].with_columns(
        pl.when(pl.col("measure") == "elimination")
        .then(pl.col("expected") + 0.05)
        .otherwise("expected")
        .alias("expected")
    )
    found = compare(audit).filter(pl.col("measure") == "elimination", pl.col("kind") == "exact")
    right = tables["checks"].filter(pl.col("measure") == "elimination", pl.col("kind") == "exact")
    assert (found["sigma"] > right["sigma"]).mean() > 0.7
    assert found["sigma"].max() > 3


def test_sigma_is_the_normal_quantile_of_students_t():
    # P(|t_4| > 2.776) = 0.05, as for a normal at 1.96.
    assert normal_sigma(np.array([2.7764]), np.array([1.0]), np.array([5]))[0] == pytest.approx(
        1.95996, abs=1e-3
    )
    assert normal_sigma(np.array([0.0]), np.array([0.0]), np.array([5]))[0] == 0
    assert normal_sigma(np.array([0.1]), np.array([0.0]), np.array([5]))[0] > 8
    assert np.isnan(normal_sigma(np.array([0.1]), np.array([1.0]), np.array([1]))[0])


def test_every_draw_head_and_context_has_its_rows(tables):
    points = tables["points"].filter(pl.col("generator") == "gaussian", pl.col("codec") == "transform_code")
    # Two contexts, two draws, two heads, and the choices: two targets calibrated and one safe.
    assert points.height == 2 * 2 * 2 * 3
    assert tables["decode"].filter(pl.col("generator") == "gaussian").height == 300
    assert tables["decode"]["tokens"].max() == 556


def test_the_same_params_give_the_same_bytes(outputs, tmp_path):
    again = run(tmp_path / Path(outputs["audit"]).parent.name)
    for name, path in outputs.items():
        assert sha256_file(again[name]) == sha256_file(path)


def test_bytes_are_records_survivors_and_exact_keys(tables):
    decode = tables["decode"].with_columns(
        (
            (pl.col("cold") * 5 / 64 + pl.col("survivors") + pl.col("tokens") - pl.col("cold"))
            / pl.col("tokens")
        ).alias("by_hand")
    )
    assert (decode["bytes_ratio"] - decode["by_hand"]).abs().max() < 1e-5
    assert (decode["bytes_ratio_gqa"] >= decode["bytes_ratio"] - 1e-6).all()
    assert (decode["elimination_worst"] <= decode["elimination"] + 1e-6).all()


def test_needles_are_asked_for_as_often_as_configured_and_mostly_found(tables):
    asked = tables["decode"].drop_nulls("needle_age")
    assert 0.9 * 60 * 2 < asked.height <= 60 * 2
    assert asked["needle_found"].null_count() == 0
    assert (asked["needle_found_group"] >= asked["needle_found"]).all()
    assert (
        tables["decode"].filter(pl.col("needle_age").is_null())["needle_found"].null_count()
        == 600 - asked.height
    )
    loud = asked.filter(pl.col("needle_wanted") == asked["needle_wanted"].max())
    assert loud["needle_found"].mean() > 0.9


def steps_by_brute_force(view, known, theta, setting, asked):
    """Each step in plain loops."""
    rows = []
    for step in range(len(asked)):
        gone = {}
        for head in range(len(view.queries)):
            start, stop, last = (
                int(x[step]) for x in (view.visible.start, view.visible.stop, view.visible.last)
            )
            best = np.sort(known.known[head, step, :last])[::-1][setting.top_k - 1]
            for key in range(start, stop):
                margin = known.weight[head, step] * known.radius[key]
                if (known.scores[head, step, key] - best) / margin < theta[head]:
                    gone.setdefault(head, set()).add(key)
        lost = [gone.get(head, set()) for head in range(len(view.queries))]
        rows.append(
            {
                "elimination": np.mean([len(x) / (stop - start) for x in lost]),
                "survivors_union": stop - start - len(set.intersection(*lost)),
                "dropped_mass": np.mean(
                    [view.exact.mass[h, step, sorted(x)].sum() for h, x in enumerate(lost)]
                ),
                "needle_found": np.mean([asked[step] not in x for x in lost]) if asked[step] >= 0 else np.nan,
            }
        )
    return rows


def test_steps_equal_a_loop_over_keys():
    generator, shape = make({"name": "gaussian"}, span=200), Shape(200, 2, 16)
    setting = Setting(2, 8, 6, {"relative_topk": Grid.of(np.linspace(-2, 0.5, 20))})
    text = last_queries(generator, 3, "held_out", shape, 12)
    codec = fit(CodecSpec("transform_code", 4), last_queries(generator, 3, "codec", shape, 64), 3)
    design = Design("transform_code", 4, codec)
    view = view_group(text.capture, 0, setting, False)
    known = estimate_group(view, design, codec.encode(text.capture.keys[0]))
    asked = np.where(np.arange(12) % 3 == 0, 50 + np.arange(12), -1)
    theta = np.array([-0.3, -0.1])
    found = step_columns(view, design, known, "relative_topk", theta, setting, asked)
    for step, row in enumerate(steps_by_brute_force(view, known, theta, setting, asked)):
        for name, value in row.items():
            assert found[name][step] == pytest.approx(value, abs=1e-6, nan_ok=True), (step, name)


def test_ranks_and_overlaps_are_those_of_sets():
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(8, 50)).astype(np.float32)
    guess = (exact + rng.normal(size=exact.shape)).astype(np.float32).round(1)  # with ties
    cold = ColdScores(exact, slice(0, 50), np.argsort(-exact, axis=1)[:, :9], average_ranks(exact[::4]))
    best = np.argsort(-guess, axis=1, kind="stable")
    found = cold.overlap(guess + 1e-4 * rng.random(guess.shape).astype(np.float32), [3, 9])
    top = [len(set(np.argsort(-x)[:9]) & set(y[:9])) / 9 for x, y in zip(exact, best, strict=True)]
    assert found[9] == pytest.approx(np.mean(top), abs=0.06)
    from scipy.stats import rankdata, spearmanr

    assert np.array_equal(average_ranks(guess), rankdata(guess, axis=1))
    expected = np.mean([spearmanr(exact[i], guess[i]).statistic for i in (0, 4)])
    assert cold.spearman(guess) == pytest.approx(expected, abs=1e-9)


def test_the_oracle_eliminates_what_a_normal_law_says(tables):
    found = tables["audit"].filter(
        pl.col("generator") == "gaussian", pl.col("measure") == "elimination", pl.col("at") == 1.0
    )
    assert found["value"].mean() == pytest.approx(ndtr(1.0), abs=0.03)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "telepathic"}, "Accepted: gaussian"),
        ({"name": "sinks", "dof": 3}, "sinks has dof"),
        ({"name": "heavy_tailed", "dof": 2}, "above 2"),
        ({"name": "needles", "mass": 1.5}, "between 0 and 1"),
        ({"name": "sinks", "count": 2.5}, "from 1 to 1024"),
        ({"name": "drifting", "shift": "far"}, "numbers for shift, pull"),
    ],
)
def test_a_generator_that_cannot_be_is_refused_with_a_line_to_write(entry, message):
    with pytest.raises(ConfigError, match=message) as error:
        Synthetic(generators=[entry])
    assert "Write: - {name:" in str(error.value)


def test_generators_are_listed_once_and_named_apart():
    with pytest.raises(ConfigError, match=r"synthetic.generators[\s\S]*'sinks'} twice"):
        load_config({"synthetic": {"generators": [{"name": "sinks"}, {"name": "sinks"}]}})
    two = Synthetic(generators=[{"name": "sinks"}, {"name": "sinks", "mass": 0.9}])
    assert list(two.labels()) == ["sinks", "sinks_2"]
