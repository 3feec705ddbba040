"""All prompts of all tasks at once, and the thresholds of the policies that answer them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import yaml

from ghostkv.files.io import stable_seed
from ghostkv.files.provenance import metadata
from ghostkv.files.tables import write_rows
from ghostkv.runtime.load_policy import fit_budgets
from ghostkv.runtime.sources import Sources
from ghostkv.sources.texts import read_texts
from ghostkv.stages.retrieval.schemas import SAMPLE_SCHEMA, THETA_SCHEMA
from ghostkv.stages.retrieval.tasks import TASKS
from ghostkv.stages.retrieval.tasks.base import Workshop
from ghostkv.stages.retrieval.tasks.material import Material, Source

if TYPE_CHECKING:
    from ghostkv.config.retrieval import TaskEntry
    from ghostkv.stages.retrieval.jobs import RetrievalPlan

# What chat templates and special tokens put around a prompt, in tokens: left free in every length.
_FRAME = 56
_KEEP_CLEAR = ("codec", "threshold")


def plan(job: RetrievalPlan, inputs: Mapping[str, Any], outputs: Mapping[str, str]) -> None:
    """Build all questions, and fit what all tasks share.

    Raises
    ------
    TextError
        The data cannot be fetched, is too short, or shares too much with the texts that codecs were fitted on.
    """
    from ghostkv.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(Path(inputs["manifest"]).parent))
    texts = read_texts(inputs["texts"])
    fitted = texts.filter(pl.col("role").is_in(_KEEP_CLEAR))["content"].to_list()
    entry = yaml.safe_load(Path(inputs["tasks"]).read_text(encoding="utf-8"))
    source = Source.of(entry, None if job.data == "ruler" else job.data)

    def encode(content: str) -> np.ndarray:
        return np.asarray(tokenizer.encode(content), np.int64)

    material = Material(source, "resources/downloads", encode, fitted)
    samples = [
        row for name, task in job.jobs.items() for row in _samples(name, task, job, material, tokenizer.count)
    ]
    thetas = [
        {"label": policy.label, "theta": theta}
        for policy, theta in zip(
            job.policies, fit_budgets(job.policies, Sources.read(job, inputs)), strict=True
        )
    ]
    about = metadata(job.code, data=job.data)
    write_rows(samples, outputs["samples"], SAMPLE_SCHEMA, about)
    write_rows(thetas, outputs["thetas"], THETA_SCHEMA, about)


def _samples(name: str, entry: TaskEntry, job: RetrievalPlan, material: Material, count) -> list[dict]:
    task, rows = TASKS[entry.task], []
    questions = {task.source: material.questions(task.source)} if task.source in ("squad", "hotpotqa") else {}
    about = {"job": name, "task": entry.task, "length": entry.length, "rule": task.rule, "limit": task.tokens}
    for number in range(entry.contexts):
        rng = np.random.default_rng(stable_seed(job.seed, entry.task, entry.length, number))
        room = entry.length - min(task.tokens, entry.length // 8) - _FRAME
        prose = material.haystack(rng, entry.length) if task.source == "essays" else ()
        workshop = Workshop(count, room, prose, questions)
        depths = () if task.per_context else (job.depths,)
        for question, example in enumerate(task.build(workshop, rng, *depths)):
            numbers = {"context_number": number, "question_number": question}
            rows.append(asdict(example) | about | numbers)
    return rows
