"""What the report depends on, and which tables it shows."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ghostkv.files.jobs import Job
from ghostkv.stages.bandwidth.jobs import MeasureMemory, ModelBandwidth
from ghostkv.stages.benchmark.jobs import CaptureOverhead, SweepSpeed
from ghostkv.stages.calibrated.jobs import GatherCalibrated
from ghostkv.stages.certificates.jobs import GatherCertificates
from ghostkv.stages.decode.jobs import GatherDecode
from ghostkv.stages.frontier.jobs import GatherFrontier, SummariseHeads
from ghostkv.stages.hierarchy.jobs import GatherHierarchy
from ghostkv.stages.historical.jobs import HistoricalRun
from ghostkv.stages.peers.jobs import GatherPeers
from ghostkv.stages.quality.jobs import GatherQuality, QualitySpeed
from ghostkv.stages.retrieval.jobs import GatherRetrieval
from ghostkv.stages.run import Run
from ghostkv.stages.store.jobs import TimeStore, TryStore
from ghostkv.stages.synthetic.jobs import GatherSynthetic

# Stages beyond the frontier, and who writes their tables; those of the second group ask the model or its trace, which
# imported tensors do not have.
_FROM_CAPTURES: Mapping[str, tuple[type[Job], ...]] = {
    "synthetic": (GatherSynthetic,),
    "bandwidth": (MeasureMemory, ModelBandwidth),
    "store": (TryStore, TimeStore),
}
_FROM_THE_MODEL: Mapping[str, tuple[type[Job], ...]] = {
    "hierarchy": (GatherHierarchy,),
    "decode": (GatherDecode,),
    "quality": (GatherQuality, QualitySpeed),
    "retrieval": (GatherRetrieval,),
}
_ALWAYS: Mapping[str, tuple[type[Job], ...]] = {
    "frontier": (GatherFrontier, SummariseHeads),
    "certificates": (GatherCertificates,),
    "calibrated": (GatherCalibrated,),
    "peers": (GatherPeers,),
}


@dataclass(frozen=True)
class WriteReport(Job):
    """How results are shown, and the config that they came from.

    Attributes
    ----------
    config : dict
        All of it but the numbers of threads.
    """

    call = "ghostkv.report.stage.write_report"
    sections = ("report",)

    title: str
    png_scale: float
    table_rows: int
    config: dict[str, Any]
    layers: tuple[int, ...]

    @classmethod
    def of(cls, run: Run) -> WriteReport:
        config = run.config.plain()
        config["capture"] = run.config.capture.plain(without=("threads",))
        return cls.taken(run, config=config)


def stage_tables(stage: str) -> dict[str, str]:
    """Paths of a stage's tables by name."""
    writers = (_ALWAYS | _FROM_CAPTURES | _FROM_THE_MODEL)[stage]
    return {name: f"results/{stage}/{name}.parquet" for job in writers for name in job.tables}


def benchmark_tables(run: Run) -> dict[str, str]:
    """Paths of what is timed; capture only where a model is captured."""
    jobs = (SweepSpeed,) if run.imports else (CaptureOverhead, SweepSpeed)
    return {name: f"results/benchmark/{name}.parquet" for job in jobs for name in job.tables}


def shown_stages(run: Run, targets: Collection[str]) -> list[str]:
    """Stages beyond the frontier that a report shows: those asked for, and those made before.

    Parameters
    ----------
    run : Run
    targets : collection of str
        What Snakemake was asked for; nothing, `all` and `results` are everything.
    """
    everything = not targets or {"all", "results"} & set(targets)
    stages = [*_FROM_CAPTURES, *([] if run.imports else _FROM_THE_MODEL)]
    return [
        stage
        for stage in stages
        if everything or stage in targets or any(map(os.path.exists, stage_tables(stage).values()))
    ]


def report_tables(run: Run, targets: Collection[str]) -> dict[str, str | list[str]]:
    """Every table that a report shows, by stage and name."""
    found: dict[str, str | list[str]] = {
        f"{stage}_{name}": path
        for stage in (*_ALWAYS, *shown_stages(run, targets))
        for name, path in stage_tables(stage).items()
    }
    found |= {f"benchmark_{name}": path for name, path in benchmark_tables(run).items()}
    found["capture_layers"] = [f"{text.folder}/layers.parquet" for text in run.captures]
    if not run.imports:
        found |= {f"historical_{name}": f"results/historical/{name}.parquet" for name in HistoricalRun.tables}
        found |= {
            "model_manifest": f"{run.model_folder}/manifest.json",
            "texts_texts": "results/texts/texts.parquet",
        }
    return found
