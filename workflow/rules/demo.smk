# A first look in a minute and a half: the frontier of a few layers, and a paragraph written under elimination.
from ghostkv.files.jobs import together
from ghostkv.report.jobs import DemoReport, demo_tables
from ghostkv.stages.demo.jobs import WriteOn, swept_layers


use rule assemble_texts as demo_texts with:
    output:
        texts="results/demo/texts/texts.parquet",
    log:
        "results/demo/logs/demo/texts.log",
    localrule: True
    resources:
        **demo_needs("demo_texts"),
    params:
        run=demo_params(AssembleTexts),


# One process reads the model once for all texts.
use rule capture_text as demo_capture with:
    input:
        manifest=f"{RUN.model_folder}/manifest.json",
        texts="results/demo/texts/texts.parquet",
    output:
        **demo_captures(),
    log:
        "results/demo/logs/demo/capture.log",
    threads: 2
    resources:
        **demo_needs("demo_capture", [{"text": text} for text in DEMO.texts]),
    params:
        run=together(CaptureText.of(DEMO, text) for text in DEMO.texts),


use rule sketch_layer as demo_sketch with:
    input:
        **demo_captures(),
    output:
        **{name: per_layer(path, DEMO.layers) for name, path in demo_sketches().items()},
    log:
        "results/demo/logs/demo/sketch.log",
    threads: 2
    resources:
        **demo_needs("demo_sketch", [{"layer": layer} for layer in DEMO.layer_names()]),
    params:
        run=together(SketchLayer.of(DEMO, layer) for layer in DEMO.layer_names()),


# The longest path once all layers are sketched: it starts before the sweeps.
use rule gather_frontier as demo_writing with:
    input:
        **demo_captures(),
        manifest=asked("demo", f"{RUN.model_folder}/manifest.json"),
        texts="results/demo/texts/texts.parquet",
        codecs=per_layer(demo_sketches()["codecs"], DEMO.layers),
    output:
        **tables(WriteOn, "results/demo"),
    log:
        "results/demo/logs/demo/writing.log",
    priority: 10
    resources:
        **demo_needs("demo_writing"),
        gpu=RUN.gpus,
    params:
        run=demo_params(WriteOn),


use rule sweep_layer as demo_sweep with:
    input:
        **demo_captures(),
        **demo_sketches(),
    output:
        **tables(SweepLayer, "results/demo/frontier/layers/layer_{layer}"),
    log:
        "results/demo/logs/demo/frontier_{layer}.log",
    resources:
        **demo_needs("demo_sweep"),
    params:
        run=demo_params(SweepLayer),


use rule gather_frontier as demo_gather with:
    input:
        **{
            name: per_layer(path, swept_layers(DEMO))
            for name, path in tables(SweepLayer, "results/demo/frontier/layers/layer_{layer}").items()
        },
    output:
        **tables(GatherFrontier, "results/demo/frontier"),
    log:
        "results/demo/logs/demo/gather.log",
    resources:
        **demo_needs("demo_gather"),
    params:
        run=demo_params(GatherFrontier),


use rule summarise_heads as demo_heads with:
    input:
        points="results/demo/frontier/points.parquet",
    output:
        **tables(SummariseHeads, "results/demo/frontier"),
    log:
        "results/demo/logs/demo/heads.log",
    resources:
        **demo_needs("demo_heads"),
    params:
        run=demo_params(SummariseHeads),


use rule report as demo_report with:
    input:
        **demo_tables(DEMO),
    output:
        markdown="results/demo/report/RESULTS.md",
        html="results/demo/report/report.html",
        headline="results/demo/report/headline.json",
        power="results/demo/report/power.parquet",
        run="results/demo/report/run.json",
        figures=directory("results/demo/report/figures"),
    log:
        "results/demo/logs/demo/report.log",
    localrule: True
    resources:
        **demo_needs("demo_report"),
    params:
        run=demo_params(DemoReport),
