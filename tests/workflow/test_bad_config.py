"""A bad config ends the run at once, with one message that says what to write and no traceback."""

from __future__ import annotations

import pytest

FAULTS = {
    "typo": ("capture={tokenss: 512}", ["capture.tokenss", "Did you mean `tokens`", "Write: tokens: 512"]),
    "layer": ("capture={layers: [0, 5]}", ["layer 5", "tiny-llama has 2 layers", "Write: layers: [0]"]),
    "model": ("model={name: tiny-lama}", ["model.name is tiny-lama", "tiny-llama"]),
    "domain": ("texts={domains: [esays]}", ["texts.domains", "esays", "essays"]),
    "trace": ("trace={path: nope.txt}", ["trace.path: nope.txt", "no such file"]),
    "questions": ("retrieval={data: nope}", ["retrieval.data is nope", "no such folder"]),
    "bound": ("quality={replicates: 1000000000}", ["quality.replicates is 1000000000", "100000"]),
    "device": ("model={device: gpu}", ["model.device", "gpu", "Write: device: cpu"]),
    "a device that is not there": (
        "model={device: cuda:99}",
        ["model.device is cuda:99", "Accepted: auto, cpu"],
    ),
    "cold keys": ("frontier={hot: 64}", ["query_bands[0].start is 64", "Write: start: 76"]),
}


@pytest.mark.parametrize(("config", "says"), FAULTS.values(), ids=FAULTS.keys())
def test_a_bad_config_says_what_to_write(project, config, says):
    done = project.snakemake("--dry-run", "--config", config, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    for part in says:
        assert part in said
    assert "Traceback" not in said


@pytest.mark.parametrize("dry", [["--dry-run"], []], ids=["dry", "run"])
@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("benchmark={tokens: 100000}", "benchmark.tokens is 100000"),
        ("historical={passage_tokens: 10000}", "historical.passage_tokens is 10000"),
    ],
)
def test_what_a_stage_refuses_is_refused_where_it_has_run_under_another_config(project, config, says, dry):
    done = project.snakemake(*dry, "--config", config, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert says in said
    assert "Traceback" not in said


def test_a_text_too_short_for_the_context_says_so(project):
    run = project.copied_run()
    done = run.snakemake("--config", "capture={tokens: 2048}", "--until", "assemble_texts", check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "Traceback" not in said
    assert "prose" in said
    assert "2048" in said
