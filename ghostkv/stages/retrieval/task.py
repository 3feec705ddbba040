"""Stage `retrieval`: RULER's questions on long contexts, answered by the model under elimination."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from ghostkv.files.io import read_metadata, read_table
from ghostkv.files.logs import progress
from ghostkv.files.tables import write_rows
from ghostkv.stages.retrieval.tables import (
    ANSWER_SCHEMA,
    DENSE,
    may_measure,
)
from ghostkv.stages.retrieval.tasks.scoring import score


def answer(params: Mapping[str, Any], job: str, inputs: Mapping[str, str], output: str | Path) -> None:
    """Answer the questions of one job, densely and under every policy.

    Policies stop where the dense model has already failed too often for the task to measure anything.

    Parameters
    ----------
    params : mapping
        Config section `retrieval`; `sources`: layers, heads, sketch, captures, points and start of
        `ghostkv.runtime.load_policy.Sources`; `dtype`; `code`.
    job : str
        Of `Retrieval.jobs()`.
    inputs : mapping
        `model` (folder), `samples`, `thetas`.
    output : path
        Columns of `ANSWER_SCHEMA`.
    """
    from ghostkv.stages.retrieval.examinee import Examinee

    samples = read_table(inputs["samples"]).filter(pl.col("job") == job)
    length, thetas = samples["length"][0], dict(read_table(inputs["thetas"]).iter_rows())
    task, wanted = samples["task"][0], []
    for entry in params["policies"]:
        if length in (entry.get("lengths") or [length]) and task in (entry.get("tasks") or [task]):
            wanted.append(entry)
    examinee = Examinee(inputs["model"], params, wanted, thetas)
    rows, failed, of, least = [], 0.0, samples.height, params["measurable"]
    # From the deepest needle up: each context then shares its beginning with the one before.
    order = samples.sort("context_number", "depth", descending=[False, True], maintain_order=True)
    asked = progress(order.iter_rows(named=True), total=order.height, desc=job, unit="question")
    for done, sample in enumerate(asked, 1):
        keys = {name: sample[name] for name, _ in _plain(ANSWER_SCHEMA) if name in sample}
        found = examinee.answers(sample, lambda dense, lost=failed: may_measure(lost + 1 - dense, of, least))
        for who, said in found:
            rows.append({**keys, **who, **said, "score": _score(said["answer"], sample)})
            failed += 1 - rows[-1]["score"] if who["policy"] == DENSE else 0
        last = {row["policy"]: row["score"] for row in rows[-len(found) :]}
        print(f"{job}: {done}/{samples.height} questions, {last}", flush=True)
    rows.sort(key=lambda row: (row["context_number"], row["question_number"]))
    write_rows(rows, output, ANSWER_SCHEMA, read_metadata(inputs["samples"]))


def _score(said: str, sample: Mapping[str, Any]) -> float:
    return score(said, sample["references"], sample["rule"])


def _plain(schema) -> list[tuple[str, Any]]:
    return [(field.name, field.type) for field in schema]
