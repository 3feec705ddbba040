"""The formulas of a plan: they grow with what there is to do, and know every job of a run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ghostkv.config.experiment import Config, load_config
from ghostkv.sources.model_size import ModelSize
from ghostkv.stages.plan.costs import Cost, Speeds, disk_gb
from ghostkv.stages.plan.costs import cost_of as cost_of_terms
from ghostkv.stages.plan.disk import disk_terms
from ghostkv.stages.plan.planning import asked, planned_jobs, rates_name, terms_of
from ghostkv.stages.plan.rates import DISK, RATES
from ghostkv.stages.plan.terms import Terms
from ghostkv.stages.plan.workload import Workload

ROOT = Path(__file__).parents[3]
SIZE = ModelSize(
    layers=4, heads=8, kv_heads=2, head_dim=64, width=512, parameters=40_000_000, active=20_000_000,
    stored_bytes=80_000_000,
)  # fmt: skip
# Of generated tensors, the store, this machine and a page: the length of texts does not say how long they take.
OF_THEIR_OWN = {"synthetic", "store", "speed", "bandwidth", "texts", "model", "report"}


def work(tokens: int = 1024, layers: int = 4, size: ModelSize = SIZE, **sections) -> Workload:
    bands = [{"start": tokens // 2, "stop": tokens, "count": 64}]
    config = load_config(
        {
            "capture": {"tokens": tokens, "query_bands": bands},
            "frontier": {"headline_start": tokens // 2},
            "retrieval": {"tasks": [{"task": "niah_single_2", "length": tokens}]},
            **sections,
        }
    )
    return Workload(config, tuple(range(layers)), replace(size, layers=layers))


def cost_of(one: Workload, rule: str, each=({},), **speeds) -> Cost:
    return cost_of_terms(rates_name(rule), terms_of(one, rule, each), **speeds)


def disk(one: Workload, stage: str) -> float:
    return disk_gb(stage, disk_terms(one, stage))


def by_stage(one: Workload) -> dict[str, tuple[float, float, float]]:
    """CPU seconds, GB of memory and GB of disk of each stage."""
    found: dict[str, list] = {}
    for job in planned_jobs(one):
        found.setdefault(job.stage, []).extend([cost_of_terms(job.rates, job.terms)] * len(job.logs))
    return {
        stage: (
            sum(cost.cpu_seconds for cost in costs),
            max(cost.memory_gb for cost in costs),
            disk(one, stage),
        )
        for stage, costs in found.items()
    }


def test_a_layer_that_slides_costs_its_window():
    chunked = {
        "capture": {"tokens": 4096, "chunk": 512, "query_bands": [{"start": 2048, "stop": 4096, "count": 64}]}
    }
    sliding = replace(SIZE, windows=(128, 0, 128, 128))
    one, whole = (work(4096, size=size, **chunked) for size in (sliding, SIZE))
    for rule in ("sweep_layer", "certify_layer"):
        slid, seen = (terms_of(run, rule, [{"layer": "00"}]) for run in (one, whole))
        for found, full in ((slid.cpu, seen.cpu), (slid.memory, seen.memory)):
            assert found["pairs"] == pytest.approx(full["pairs"] * 128 / 4096)
        assert terms_of(one, rule, [{"layer": "01"}]) == terms_of(whole, rule, [{"layer": "01"}])
    # A chunk reads the window and itself; sampled queries are proved over all keys.
    read = terms_of(one, "capture_text", [{"text": ""}]).cpu["attention"]
    pairs = 3 * (4096 - 640 / 2) * 640 + 4096**2 / 2 + 4 * 64 * 4096
    assert read == pytest.approx(2 * pairs * 64 * 8 / 1e9)
    # Keys and values of the window, the chunk and, as they are recorded, of all tokens.
    cache = terms_of(one, "capture_text", [{"text": ""}]).memory["weights"] - one.weights
    assert cache == pytest.approx(one.kv(3 * (640 + 4096) + 4096) * 4)
    # Read as a whole, a sliding layer's keys out of sight are masked and computed.
    at_once = [work(4096, size=size) for size in (sliding, SIZE)]
    assert len({terms_of(one, "capture_text", [{"text": ""}]).cpu["attention"] for one in at_once}) == 1


@pytest.mark.parametrize("more", [{"tokens": 2048}, {"layers": 8}], ids=["tokens", "layers"])
def test_no_stage_takes_less_where_there_is_more_to_do(more):
    less, larger = by_stage(work()), by_stage(work(**more))
    assert less.keys() == larger.keys() == {*Config.model_fields} - {"plan"}
    for stage, before in less.items():
        assert all(after >= was for was, after in zip(before, larger[stage], strict=True)), stage
        if stage not in OF_THEIR_OWN:
            assert larger[stage][0] > before[0], stage


def test_a_forward_pass_grows_with_the_square_of_its_tokens_where_attention_is_most_of_it():
    seconds = [cost_of(work(tokens), "capture_text").cpu_seconds for tokens in (1 << 16, 1 << 17)]
    assert 3 < seconds[1] / seconds[0] < 4.5


def test_a_job_holds_at_least_the_weights_of_its_model_and_its_cache():
    large = replace(SIZE, parameters=8_000_000_000, active=7_000_000_000)
    one = work(8192, size=large)
    cache = 4 * 2 * 8192 * 2 * 64 * 4 / 1e9
    for rule, least in {
        "fetch_model": 0.08,
        "capture_text": 32.0,
        "trace_text": 32.0,
        "quality_texts": 32.0 + cache,
    }.items():
        assert cost_of(one, rule).memory_gb > least


def test_a_capture_takes_what_its_numbers_take_on_disk():
    one = work()
    # Four texts each that fit codecs and choose thresholds; twelve held-out ones, which take a quarter of the queries.
    kv, asked = 2 * 1024 * 2 * 64 * 4 * 2, 2 * 64 * 8 * 64 * 4 * 4
    assert disk(one, "capture") == pytest.approx((20 * kv + (8 + 12 / 4) * asked) / 1e9, rel=0.1)


def test_more_texts_with_fewer_queries_each_cost_their_sweeps_what_fewer_texts_do():
    few, many = (
        work(
            texts={"per_role": {"held_out": texts}},
            capture=work().config.capture.plain() | {"held_out_share": share},
        )
        for texts, share in ((1, 1.0), (4, 0.25))
    )
    assert few.late("held_out") == many.late("held_out") == 4 * 64
    for rule in ("sweep_layer", "certify_layer", "calibrate_layer", "peers_layer"):
        before, after = (terms_of(one, rule, [{"layer": "00"}]).cpu for one in (few, many))
        assert after == pytest.approx(before), rule


def test_one_process_for_several_jobs_starts_and_loads_once_and_holds_the_largest():
    both = Terms.together(
        [
            Terms({"pairs": 2.0, "weights": 1.0}, {"kv": 3.0}),
            Terms({"pairs": 4.0, "weights": 1.0}, {"kv": 5.0}),
        ]
    )
    assert both.cpu == {"start": 1.0, "pairs": 6.0, "weights": 1.0}
    assert both.memory == {"start": 1.0, "kv": 5.0}
    assert Terms.together([]).cpu == {"start": 1.0}


def test_a_machine_of_half_the_speed_takes_twice_as_long():
    one = work()
    once, twice = cost_of(one, "capture_text"), cost_of(one, "capture_text", speeds=Speeds(2.0, 2.0, 2.0))
    assert twice.cpu_seconds == pytest.approx(2 * once.cpu_seconds)
    assert twice.memory_gb == once.memory_gb


def test_rules_ask_for_more_than_is_planned_and_for_ten_minutes_at_least():
    one = work()
    cost, wanted = (
        cost_of(one, "sketch_layer", [{"layer": "00"}]),
        asked(one, "sketch_layer", [{"layer": "00"}]),
    )
    assert 1000 * cost.memory_gb < wanted["mem_mb"] < 1500 * cost.memory_gb
    assert wanted["runtime"] == 10
    long = work(1 << 17)
    minutes = cost_of(long, "trace_text").cpu_seconds / 60
    assert asked(long, "trace_text")["runtime"] > 3 * minutes > 30


def test_imported_tensors_have_no_job_that_runs_a_model():
    folders = [
        {"folder": f"/{role}", "domain": "mine", "role": role} for role in ("codec", "threshold", "held_out")
    ]
    capture = {"tokens": 1024, "import": folders, "query_bands": [{"start": 512, "stop": 1024, "count": 64}]}
    stages = {job.stage for job in planned_jobs(work(capture=capture))}
    assert {"capture", "sketch", "frontier"} <= stages
    assert not stages & {"model", "texts", "trace", "quality", "retrieval", "hierarchy", "historical"}


def test_every_rule_and_stage_has_rates_and_they_are_of_its_own_terms():
    one = work()
    for job in planned_jobs(one):
        rates = RATES[job.rates]
        assert rates["cpu"].keys() <= job.terms.cpu.keys(), job.rates
        assert rates["memory"].keys() <= job.terms.memory.keys(), job.rates
        assert job.stage in DISK


def _rules() -> list[tuple[str, str]]:
    """Each rule of the workflow that runs a job, and its text."""
    found = []
    for path in sorted((ROOT / "workflow/rules").glob("*.smk")):
        parts = re.split(r"^(?:use )?rule ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
        for part in parts:
            head = part.partition(":\n")[0]
            found.append((head.split()[2] if " as " in head else head, part))
    return found


@pytest.mark.parametrize(("rule", "text"), _rules(), ids=[rule for rule, _ in _rules()])
def test_every_rule_asks_for_what_its_own_formula_says(rule, text):
    said = re.findall(r"resources:\n +(.*)\n", text)
    assert len(said) == 1
    named = re.fullmatch(r'\*\*(demo_)?needs\("(\w+)"(?:, \[.*\])?\),', said[0])
    assert named[2] == rule
    assert bool(named[1]) == rule.startswith("demo_")


def test_no_rule_states_memory_or_time_itself():
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        assert not re.search(r"mem_mb|runtime *[=:]", path.read_text(encoding="utf-8")), path.name
    profile = yaml.safe_load((ROOT / "workflow/profiles/slurm/profile.yaml").read_text(encoding="utf-8"))
    assert "default-resources" not in profile
    assert not {name for one in profile["set-resources"].values() for name in one} & {"mem_mb", "runtime"}


def test_the_terms_of_every_rule_of_the_demonstration_are_known():
    one = work()
    for rule, _ in _rules():
        if rule.startswith("demo_"):
            each = {"demo_sketch": [{"layer": "00"}], "demo_sweep": [{"layer": "00"}]}.get(rule, [{}])
            assert terms_of(one, rule, each).cpu["start"] == 1.0
