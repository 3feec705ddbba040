"""One config on heads of other widths: the same bits a coordinate, and bounds and certificates that hold at 128."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.captures.generated import draw
from ghostkv.captures.generators import make
from ghostkv.codecs.fitting import fit
from ghostkv.codecs.nested import Nested, level_bytes
from ghostkv.codecs.records import CodecSpec
from ghostkv.codecs.sizes import code_bytes
from ghostkv.config.certificates import Certificates
from ghostkv.elimination.attention import cold_range, scores
from ghostkv.elimination.certificates import certify_mass, certify_topk
from ghostkv.elimination.ledger import Costs
from ghostkv.elimination.nested_bounds import read_levels
from ghostkv.elimination.powers import Powers
from ghostkv.elimination.truth import Truth
from ghostkv.files.io import read_table
from ghostkv.stages.certificates.jobs import CertifyLayer
from ghostkv.stages.certificates.layer import certify_layer
from ghostkv.stages.frontier.jobs import SweepLayer
from ghostkv.stages.frontier.layer import sweep_layer
from ghostkv.stages.sketch.jobs import SketchLayer
from ghostkv.stages.synthetic.files import write_capture
from tests.stages.conftest import job_of, make_sketch

WIDE, TOKENS, GROUP, SINKS, HOT, TOP_K = 128, 768, 4, 4, 16, 8
CODECS = ("gaussian", "random_orthogonal", "pca", "whitened", "transform_code")
CONFIG = {
    "sketch": {"codecs": [{"name": "gaussian", "bits": [1]}, {"name": "transform_code", "bits": [0.25, 1]}]},
    "frontier": {
        "sinks": SINKS, "hot": HOT, "top_k": TOP_K, "headline_start": 256, "targets": {"fer": [0.1], "dropped_mass": [0.1]},
    },
    "certificates": {"bounds": ["page_box"], "compared_every": 4, "deltas": [0.05]},
}  # fmt: skip


def spectrum(decay=1.0, query_decay=1.0, spread=3.0):
    """Keys and queries whose variance falls along axes of their own, as in captures."""
    options = {"name": "anisotropic", "decay": decay, "query_decay": query_decay}
    return make(options, spread=spread, span=TOKENS)


@pytest.mark.parametrize("width", [64, WIDE])
def test_one_config_gives_each_width_its_bytes_and_no_violation(width, tmp_path):
    captures = []
    for role in ("codec", "threshold", "held_out"):
        where = np.linspace(64, TOKENS - 1, 24).astype(np.int32)
        write_capture(tmp_path / role, spectrum(2.0), 0, role, TOKENS, where, width=width, group=GROUP)
        captures.append({"text": role, "domain": "made", "role": role, "folder": str(tmp_path / role)})
    codecs = job_of(SketchLayer, CONFIG, "00", width=width).codecs
    assert [spec.code_bytes for spec in codecs] == [width // 8, width // 32, width // 8]
    sketch, tables = make_sketch(captures, 0, codecs, tmp_path), {}
    for kind, work in ((SweepLayer, sweep_layer), (CertifyLayer, certify_layer)):
        outputs = {name: str(tmp_path / f"{name}.parquet") for name in kind.tables}
        work(job_of(kind, CONFIG, "00", width=width, captures=captures), sketch, outputs)
        tables |= {name: read_table(path) for name, path in outputs.items()}
    bounds, checks = tables["bounds"], tables["checks"]
    assert set(bounds.select("codec", "code_bytes").iter_rows()) == {
        (one.name, one.code_bytes) for one in codecs
    }
    assert bounds["violations"].sum() == checks["violations"].sum() == 0
    assert bounds["pairs"].min() > 0
    assert set(checks["what"]) == {"margin", "topk", "mass", "output"}
    sweep = tables["points"]
    assert set(sweep["record_bytes"]) == {0, *(one.code_bytes + 1 for one in codecs)}
    assert tables["certificates"]["elimination"].max() > 0.3


@cache
def fitted(name, decay):
    text = draw(spectrum(decay), 1, "codec", TOKENS, np.arange(256, TOKENS, 4), group=GROUP, width=WIDE)
    if name != "nested":
        return fit(CodecSpec(name, code_bytes(1, WIDE)), text, 0)
    capture = text.capture
    levels = level_bytes(Certificates().levels, WIDE)
    return Nested.of(levels).fit(capture.keys[0], capture.group_queries(0).reshape(-1, WIDE))


@cache
def asked(decay, query_decay, spread, seed):
    """A text of the calibration's law, or of another spectrum."""
    where = np.array([200, 400, 600, TOKENS - 1], np.int32)
    law = spectrum(decay, query_decay, spread)
    return draw(law, seed, "held_out", TOKENS, where, group=GROUP, width=WIDE).capture


laws = given(
    fit_decay=st.sampled_from([1.0, 2.0]),
    decay=st.sampled_from([0.5, 1.0, 2.0]),
    query_decay=st.sampled_from([0.0, 2.0]),
    spread=st.sampled_from([3.0, 8.0]),
    seed=st.sampled_from([1, 2]),
)


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=10, deadline=None)
@laws
def test_a_record_of_one_bit_a_coordinate_is_16_bytes_at_128_and_bounds_every_score(
    name, fit_decay, decay, query_decay, spread, seed
):
    codec, capture = fitted(name, fit_decay), asked(decay, query_decay, spread, seed)
    records = codec.encode(capture.keys[0])
    assert (records.code.shape, codec.record_bytes) == ((TOKENS, 16), 17)
    queries = capture.group_queries(0).reshape(-1, WIDE)
    projected, decoded = codec.project(queries), codec.decode(records)
    margin = codec.margins(projected, decoded, capture.scale)
    exact = queries.astype(np.float64) @ capture.keys[0].astype(np.float64).T * capture.scale
    error = np.abs(codec.estimate(projected, decoded, capture.scale) - exact)
    assert (error <= margin).all()


@settings(max_examples=16, deadline=None)
@laws
def test_certificates_hold_in_float64_at_128(fit_decay, decay, query_decay, spread, seed):
    codec, capture = fitted("nested", fit_decay), asked(decay, query_decay, spread, seed)
    assert codec.levels[:4] == (16, 16, 16, 16)
    keys, queries = capture.keys[0], capture.group_queries(0)
    visible = cold_range(capture.positions, np.zeros(4, np.int64), SINKS, HOT)
    logits = scores(queries, keys.astype(np.float32), capture.scale, visible=visible)
    exact = queries.astype(np.float64) @ keys.astype(np.float64).T * capture.scale
    exact[np.isneginf(logits)] = -np.inf
    shape = (len(codec.levels), *exact.shape)
    lower, upper = np.empty(shape, np.float32), np.empty(shape, np.float32)
    estimates = np.empty(exact.shape, np.float32)
    for _ in read_levels(
        codec, codec.decode_levels(codec.encode(keys)), queries, capture.scale, 0.0, (lower, upper), estimates
    ):
        pass
    seen = np.isfinite(exact)
    assert (lower[:, seen] <= exact[seen]).all()
    assert (upper[:, seen] >= exact[seen]).all()
    truth = Truth.of(queries, keys, logits, capture.values[0], visible, capture.scale, TOP_K)
    costs = Costs.of(codec.level_bytes[:-1], codec.level_bytes.sum(), WIDE, WIDE)
    kept = certify_topk(lower, upper, truth, costs, (32, *[0] * 5), TOP_K).kept
    assert kept[exact >= np.sort(exact, axis=-1)[..., -TOP_K, None]].all()
    mass = np.exp(exact - exact.max(axis=-1, keepdims=True))
    mass /= mass.sum(axis=-1, keepdims=True)
    for delta in (0.05, 0.01):
        found = certify_mass(
            lower, upper, Powers.of(lower, upper, truth), truth, costs, Certificates().shares, delta
        )
        assert (
            np.where(found.kept, 0.0, mass).sum(axis=-1) <= np.minimum(delta, found.certified * (1 + 1e-12))
        ).all()
