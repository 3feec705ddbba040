"""What a run makes of its config: which codecs are swept where, and the small run of the demonstration."""

from __future__ import annotations

import yaml

from ghostkv.codecs.records import CodecSpec
from ghostkv.stages.demo.jobs import WriteOn, swept_layers
from ghostkv.stages.frontier.jobs import SweepLayer
from ghostkv.stages.run import Run
from ghostkv.stages.sketch.jobs import SketchLayer

RUN = Run.resolve({}, "resources")
HEADLINE = CodecSpec("transform_code", 8)


def test_the_headline_is_swept_in_every_layer_and_what_it_is_compared_with_in_every_third():
    for layer in RUN.layers:
        swept, sketched = (job.of(RUN, layer=f"{layer:02d}").codecs for job in (SweepLayer, SketchLayer))
        assert HEADLINE in swept
        assert set(swept) <= set(sketched)
        if layer % 3 == 0:
            assert swept == sketched == RUN.codecs
        else:
            assert swept == (HEADLINE,)
            assert {spec.code_bytes for spec in sketched} == {4, 8, 16, 32}
            assert {spec.name for spec in sketched} == {HEADLINE.name}


def test_every_codec_is_swept_in_every_layer_where_that_is_asked_for():
    run = Run.resolve({"sketch": {"compared_every": 1}}, "resources")
    assert all(SweepLayer.of(run, layer=f"{layer:02d}").codecs == run.codecs for layer in run.layers)


def test_what_policies_read_is_fitted_in_every_layer_and_recorded_in_none():
    turned = CodecSpec("turned_code", 8)
    for layer in RUN.layers:
        job = SketchLayer.of(RUN, layer=f"{layer:02d}")
        assert job.fitted == (turned,)
        assert turned not in job.codecs
    # The demonstration has no stage that decodes under a policy of the config.
    assert SketchLayer.of(RUN.demo(), layer="00").fitted == ()


def test_the_demonstration_is_the_same_model_on_less():
    demo = RUN.demo()
    assert (demo.model, demo.layers, demo.trace) == (RUN.model, RUN.layers, {})
    assert demo.config.capture.tokens == 2048
    assert demo.codecs == (HEADLINE,)
    assert {entry["role"] for entry in demo.texts.values()} == {"codec", "threshold", "held_out"}
    assert {entry["domain"] for entry in demo.texts.values()} == {"essays"}
    assert all(text.folder.startswith("results/demo/capture/") for text in demo.captures)
    assert len(swept_layers(demo)) == 6
    # Enough queries to promise a loss of 1 %.
    queries = sum(band.count for band in demo.config.capture.query_bands if band.start >= 1024)
    assert 1 / (queries + 1) < 0.01
    job = WriteOn.of(demo)
    assert (job.text, job.context + job.tokens) == ("essays_held_out_0", 2048)


def test_a_small_run_is_no_larger_in_the_demonstration():
    with open("tests/config/tiny.yaml", encoding="utf-8") as file:
        demo = Run.resolve(yaml.safe_load(file), "resources").demo()
    assert demo.config.capture.tokens == 512
    assert [entry["custom"]["path"] for entry in demo.texts.values()] == [
        f"tests/config/texts/{name}.txt" for name in ("harbour", "orchard", "survey")
    ]
