"""All prompts of all tasks at once, and the thresholds of the policies that answer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from ghostkv.files import provenance
from ghostkv.files.io import read_table, stable_seed
from ghostkv.files.tables import write_rows
from ghostkv.sources.downloads import PipDownload
from ghostkv.stages.retrieval.tables import LIMITS, SAMPLE_SCHEMA, THETA_SCHEMA
from ghostkv.stages.retrieval.tasks import TASKS
from ghostkv.stages.retrieval.tasks.base import Workshop
from ghostkv.stages.retrieval.tasks.material import Material, Source

# What chat templates and special tokens put around a prompt, in tokens: left free in every length.
_FRAME = 56


_KEEP_CLEAR = ("codec", "threshold")


def plan(
    params: Mapping[str, Any],
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    resources: str | Path = "resources",
    pip: PipDownload | None = None,
) -> None:
    """Build all questions, and fit what all jobs share.

    Parameters
    ----------
    params : mapping
        Config section `retrieval` with `jobs`; `sources` as in `answer`; `code`.
    inputs : mapping
        `tokenizer` (the model's folder), `texts`, `tasks` (ghostkv/stages/retrieval/tasks/ruler.yaml).
    outputs : mapping
        `samples` and `thetas`.

    Raises
    ------
    TextError
        The data cannot be fetched, is too short, or shares too much with the texts that codecs were fitted on.
    """
    from ghostkv.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(inputs["tokenizer"])
    texts = read_table(inputs["texts"])
    fitted = texts.filter(pl.col("role").is_in(_KEEP_CLEAR))["content"].to_list()
    entry = yaml.safe_load(Path(inputs["tasks"]).read_text(encoding="utf-8"))
    source = Source.of(entry, None if params["data"] == "ruler" else params["data"])

    def encode(content: str) -> np.ndarray:
        return np.asarray(tokenizer.encode(content, add_special_tokens=False).ids, np.int64)

    def count(contents: Sequence[str]) -> np.ndarray:
        found = tokenizer.encode_batch(list(contents), add_special_tokens=False)
        return np.array([len(one.ids) for one in found], np.int64)

    material = Material(source, Path(resources) / "downloads", encode, fitted, pip)
    rows = [
        row for name, job in params["jobs"].items() for row in _samples(name, job, params, material, count)
    ]
    metadata = provenance.metadata(params.get("code"), data=params["data"])
    write_rows(rows, outputs["samples"], SAMPLE_SCHEMA, metadata)
    write_rows(_thetas(params), outputs["thetas"], THETA_SCHEMA, metadata)


def _samples(name: str, job: Mapping, params: Mapping, material: Material, count) -> list[dict]:
    task, rows = TASKS[job["task"]], []
    questions = {task.source: material.questions(task.source)} if task.source in ("squad", "hotpotqa") else {}
    for number in range(job["contexts"]):
        rng = np.random.default_rng(stable_seed(params["seed"], job["task"], job["length"], number))
        room = job["length"] - min(task.tokens, job["length"] // 8) - _FRAME
        prose = material.haystack(rng, job["length"]) if task.source == "essays" else ()
        workshop = Workshop(count, room, prose, questions)
        depths = () if task.per_context else (params["depths"],)
        for question, example in enumerate(task.build(workshop, rng, *depths)):
            about = {field: getattr(example, field) for field in vars(example)}
            rows.append(
                about
                | {
                    "job": name,
                    "task": job["task"],
                    "length": job["length"],
                    "references": list(example.references),
                }
                | {
                    "context_number": number,
                    "question_number": question,
                    "rule": task.rule,
                    "limit": task.tokens,
                }
            )
    return rows


def _thetas(params: Mapping[str, Any]) -> list[dict]:
    """Thresholds of ghost policies that are given by their bytes; one fit for all with the same records."""
    from ghostkv.runtime.load_policy import fit_budgets
    from ghostkv.stages.retrieval.examinee import sources_of

    groups: dict[str, list[Mapping]] = {}
    for entry in params["policies"]:
        if entry["policy"] == "ghost" and "theta" not in entry:
            same = {key: value for key, value in entry.items() if key not in ("label", "ratio", *LIMITS)}
            groups.setdefault(repr(sorted(same.items())), []).append(entry)
    found = []
    for entries in groups.values():
        fitted = fit_budgets(entries[0], sources_of(params["sources"]), [entry["ratio"] for entry in entries])
        found += [{"label": entry["label"], "theta": float(fitted[entry["ratio"]])} for entry in entries]
    return found
