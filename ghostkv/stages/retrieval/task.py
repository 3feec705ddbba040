"""Stage `retrieval`: RULER's questions on long contexts, answered by the model under elimination."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from ghostkv.files.io import read_table
from ghostkv.files.progress import progress
from ghostkv.files.provenance import inherited
from ghostkv.files.tables import write_rows
from ghostkv.stages.retrieval.schemas import ANSWER_SCHEMA, DENSE, SAMPLE_SCHEMA
from ghostkv.stages.retrieval.tables import may_measure
from ghostkv.stages.retrieval.tasks.scoring import score

if TYPE_CHECKING:
    from ghostkv.stages.retrieval.jobs import RetrievalTask


def answer(
    job: RetrievalTask, inputs: Mapping[str, Any], outputs: Mapping[str, str], threads: int = 1
) -> None:
    """Answer the questions of one task at one length, densely and under every policy.

    Policies stop where the dense model has already failed too often for the task to measure anything.
    """
    from ghostkv.stages.retrieval.examinee import Examinee

    samples = read_table(inputs["samples"], SAMPLE_SCHEMA).filter(pl.col("job") == job.name)
    examinee = Examinee(job, inputs, threads)
    rows, failed, of = [], 0.0, samples.height
    # From the deepest needle up: each context then shares its beginning with the one before.
    order = samples.sort("context_number", "depth", descending=[False, True], maintain_order=True)
    asked = progress(order.iter_rows(named=True), total=of, desc=job.name, unit="question")
    for done, sample in enumerate(asked, 1):
        keys = {name: sample[name] for name in ANSWER_SCHEMA.names if name in sample}
        found = examinee.answers(
            sample, lambda dense, lost=failed: may_measure(lost + 1 - dense, of, job.measurable)
        )
        for who, said in found:
            points = score(said["answer"], sample["references"], sample["rule"])
            rows.append({**keys, **who, **said, "score": points})
            failed += 1 - points if who["policy"] == DENSE else 0
        last = {row["policy"]: row["score"] for row in rows[-len(found) :]}
        print(f"{job.name}: {done}/{of} questions, {last}", flush=True)
    rows.sort(key=lambda row: (row["context_number"], row["question_number"]))
    write_rows(rows, outputs["answers"], ANSWER_SCHEMA, inherited(inputs["samples"], job.code))
