"""What the report depends on, and which tables it shows."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ghostkv.config.experiment import Config
from ghostkv.files.errors import ConfigError
from ghostkv.files.jobs import Job
from ghostkv.stages.bandwidth.jobs import CacheLosses, MeasureMemory, ModelBandwidth
from ghostkv.stages.benchmark.jobs import CaptureOverhead, SweepSpeed
from ghostkv.stages.calibrated.jobs import GatherCalibrated
from ghostkv.stages.certificates.jobs import GatherCertificates
from ghostkv.stages.decode.jobs import GatherDecode, TimeOverlap
from ghostkv.stages.demo.jobs import WriteOn, swept_layers
from ghostkv.stages.frontier.jobs import GatherFrontier, SummariseHeads
from ghostkv.stages.hierarchy.jobs import GatherHierarchy
from ghostkv.stages.historical.jobs import HistoricalRun
from ghostkv.stages.peers.jobs import GatherPeers
from ghostkv.stages.quality.jobs import FitPolicies, GatherQuality
from ghostkv.stages.reproduce.jobs import CharacterTable, ErrorTable, RecallTable, RepeatPredecessor
from ghostkv.stages.retrieval.jobs import GatherRetrieval
from ghostkv.stages.run import Run
from ghostkv.stages.speed.jobs import TimeLayers, TimeSteps
from ghostkv.stages.store.jobs import TimeStore, TryStore
from ghostkv.stages.synthetic.jobs import GatherSynthetic

# Who writes a stage's tables. Every report has the frontier; the stages beyond it are shown where they were asked for.
_FRONTIER: tuple[type[Job], ...] = (GatherFrontier, SummariseHeads)
BEYOND: Mapping[str, tuple[type[Job], ...]] = {
    "certificates": (GatherCertificates,),
    "calibrated": (GatherCalibrated,),
    "peers": (GatherPeers,),
    "hierarchy": (GatherHierarchy,),
    "decode": (GatherDecode, TimeOverlap),
    "quality": (FitPolicies, GatherQuality),
    "retrieval": (GatherRetrieval,),
    "historical": (HistoricalRun,),
    "synthetic": (GatherSynthetic,),
    "bandwidth": (CacheLosses, MeasureMemory, ModelBandwidth),
    "store": (TryStore, TimeStore),
    "reproduce": (RepeatPredecessor, RecallTable, ErrorTable, CharacterTable),
    "benchmark": (CaptureOverhead, SweepSpeed),
    "speed": (TimeLayers, TimeSteps),
}
# These ask the model or its trace, which imported tensors do not have.
_OF_THE_MODEL = (
    GatherHierarchy, GatherDecode, TimeOverlap, FitPolicies, GatherQuality, GatherRetrieval, HistoricalRun, CaptureOverhead,
    TimeSteps,
)  # fmt: skip


@dataclass(frozen=True)
class WriteReport(Job):
    """How results are shown, and the config that they came from.

    Attributes
    ----------
    config : dict
        All of it but the numbers of threads.
    head_dim : int
        Width of the keys that were measured.
    compared_layers : tuple of int
        Layers in which every codec was swept; codecs are held against each other in these alone.
    impossible : tuple of str
        Stages that imported tensors have no model for.
    logs : str
        Folder of the logs, beside which stands what each job took.
    """

    call = "ghostkv.report.stage.write_report"
    sections = ("report",)

    title: str
    png_scale: float
    table_rows: int
    beside: str | None
    config: dict[str, Any]
    layers: tuple[int, ...]
    head_dim: int
    compared_layers: tuple[int, ...]
    impossible: tuple[str, ...]
    logs: str

    @classmethod
    def of(cls, run: Run) -> WriteReport:
        config = run.config.plain()
        config["capture"] = run.config.capture.plain(without=("threads",))
        impossible = [stage for stage in BEYOND if not stage_tables(run, stage)]
        shown = {"config": config, "head_dim": run.key_width, "logs": f"{run.folder}/logs"}
        return cls.taken(run, **shown, impossible=impossible)


@dataclass(frozen=True)
class DemoReport(WriteReport):
    """The same of the demonstration, which sweeps some of the layers.

    Attributes
    ----------
    full : dict
        Tokens, domains and number of codecs that a run reads where its config says nothing.
    """

    full: dict[str, Any]

    @classmethod
    def of(cls, run: Run) -> DemoReport:
        layers, usual = swept_layers(run), Config()
        full = {
            "tokens": usual.capture.tokens,
            "domains": list(usual.texts.domains),
            "codecs": len(usual.sketch.codecs),
        }
        own = {"layers": layers, "compared_layers": layers, "full": full}
        return cls(**vars(WriteReport.of(run)) | own)


@dataclass(frozen=True)
class CompareRuns(Job):
    """Finished runs side by side.

    Attributes
    ----------
    runs : tuple of str
        Their results folders.
    """

    call = "ghostkv.report.comparison.compare_runs"
    sections = ("report",)

    png_scale: float
    table_rows: int
    runs: tuple[str, ...]

    @classmethod
    def of(cls, run: Run, runs: Collection[str]) -> CompareRuns:
        return cls.taken(run, runs=tuple(runs))


def demo_tables(run: Run) -> dict[str, str | list[str]]:
    """Every table that the demonstration's report shows."""
    own = {f"demo_{name}": f"{run.folder}/{name}.parquet" for name in WriteOn.tables}
    return report_tables(run, ["demo"]) | own


def stage_tables(run: Run, stage: str) -> dict[str, str]:
    """Paths of a stage's tables by name; empty where imported tensors leave nothing of it to do."""
    writers = _FRONTIER if stage == "frontier" else BEYOND[stage]
    return {
        name: f"{run.folder}/{stage}/{name}.parquet"
        for job in writers
        if not (run.imports and job in _OF_THE_MODEL)
        for name in job.tables
    }


def asked_tables(run: Run, stage: str) -> list[str]:
    """Paths of the tables of a stage that somebody asked for.

    Raises
    ------
    ConfigError
        The stage runs the model, and tensors are imported.
    """
    paths = list(stage_tables(run, stage).values())
    if not paths:
        raise ConfigError(
            f"{stage}: it runs the model, and capture.import brings tensors without one. Accepted: "
            f"{', '.join(stage for stage in BEYOND if stage_tables(run, stage))}.\n"
            "  Write: a model and texts in place of capture.import, or ask for one of those stages"
        )
    return paths


def shown_stages(run: Run, targets: Collection[str]) -> list[str]:
    """Stages beyond the frontier that a report shows: those asked for, and those made before.

    Parameters
    ----------
    run : Run
    targets : collection of str
        What Snakemake was asked for; nothing, `all` and `results` are everything.
    """
    everything = not targets or {"all", "results"} & set(targets)
    made = {stage for stage in BEYOND if any(map(os.path.exists, stage_tables(run, stage).values()))}
    return [stage for stage in BEYOND if everything or stage in made | set(targets)]


def left_out(run: Run, targets: Collection[str]) -> str:
    """What a run of these targets leaves out because imported tensors have no model, in a sentence; else nothing."""
    stages = [stage for stage in shown_stages(run, targets) if not stage_tables(run, stage)]
    if not stages:
        return ""
    return (
        f"Left out: {', '.join(stages)}, trace, demo and the overhead of capture in benchmark, because they run the model, and "
        "capture.import brings tensors without one."
    )


def report_tables(run: Run, targets: Collection[str]) -> dict[str, str | list[str]]:
    """Every table of the run that a report shows, by stage and name."""
    found: dict[str, str | list[str]] = {
        f"{stage}_{name}": path
        for stage in ("frontier", *shown_stages(run, targets))
        for name, path in stage_tables(run, stage).items()
    }
    found["capture_layers"] = [f"{text.folder}/layers.parquet" for text in run.captures]
    if not run.imports:
        found |= {
            "model_manifest": f"{run.model_folder}/manifest.json",
            "texts_texts": f"{run.folder}/texts/texts.parquet",
        }
    return found


def tables_beside(folder: str | None) -> dict[str, str]:
    """What a report shows of the run that `report.beside` names: its certificates and its calibrated points by context.

    Raises
    ------
    ConfigError
        No finished run lies there.
    """
    found = {f"beside_{stage}": f"{folder}/{stage}/context.parquet" for stage in ("certificates", "frontier")}
    lacking = [path for path in found.values() if folder and not os.path.exists(path)]
    if lacking:
        raise ConfigError(
            f"config: report.beside is {folder}, and there is no {lacking[0]}. Accepted: the results folder of a run that has ended, "
            "its certificates among them.\n  Write: beside: null   (under report, or run that one first)"
        )
    return found if folder else {}


def compared_files(run: Run, folders: Any) -> list[str]:
    """What a comparison reads of each run.

    Raises
    ------
    ConfigError
        Fewer than two results folders are named, or one has no finished report.
    """
    if not isinstance(folders, list) or len({*map(str, folders)}) < max(2, len(folders)):
        raise ConfigError(
            f"runs is {folders!r}. Accepted: two results folders or more, each once.\n"
            "  Write: snakemake compare --config runs='[results, ../other/results]'"
        )
    found = [
        f"{folder}/report/{file}" for folder in folders for file in ("run.json", "headline.json", "figures")
    ]
    # The report of this run is made where it is not there.
    lacking = [
        path for path in found if not path.startswith(f"{run.folder}/report/") and not os.path.exists(path)
    ]
    if lacking:
        raise ConfigError(
            f"runs: there is no {lacking[0]}. Accepted: results folders of runs whose report this version of the lab has made.\n"
            "  Write: snakemake report   (where that run was made)"
        )
    return found
