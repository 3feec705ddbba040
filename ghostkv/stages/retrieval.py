"""Stage `retrieval`: RULER's questions on long contexts, answered by the model under elimination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from ghostkv import __version__
from ghostkv.files.io import read_metadata, read_table, stable_seed, write_table
from ghostkv.files.logs import progress
from ghostkv.retrieval_tables import (
    ANSWER_SCHEMA,
    CELL_SCHEMA,
    DENSE,
    LIMITS,
    SAMPLE_SCHEMA,
    SUMMARY_SCHEMA,
    THETA_SCHEMA,
    cells,
    frame,
    may_measure,
    summarise,
)
from ghostkv.sources.downloads import PipDownload
from ghostkv.tasks import TASKS
from ghostkv.tasks.base import Workshop
from ghostkv.tasks.material import Material, Source
from ghostkv.tasks.scoring import score

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
        `tokenizer` (the model's folder), `texts`, `tasks` (ghostkv/tasks/ruler.yaml).
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
    metadata = {
        "package_version": __version__,
        "fingerprint": str(params.get("code", "")),
        "data": params["data"],
    }
    write_table(frame(rows, SAMPLE_SCHEMA), outputs["samples"], SAMPLE_SCHEMA, metadata)
    write_table(frame(_thetas(params), THETA_SCHEMA), outputs["thetas"], THETA_SCHEMA, metadata)


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
    from ghostkv.models.examinee import Examinee

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
    metadata = read_metadata(inputs["samples"])
    rows.sort(key=lambda row: (row["context_number"], row["question_number"]))
    write_table(frame(rows, ANSWER_SCHEMA), output, ANSWER_SCHEMA, metadata)


def gather(params: Mapping[str, Any], paths: Sequence[str], outputs: Mapping[str, str]) -> None:
    """Join all jobs, and derive cells and summary.

    Parameters
    ----------
    params : mapping
        Config section `retrieval`.
    paths : sequence of str
        Answers, one file a job.
    outputs : mapping
        Paths of `answers`, `cells`, `summary`.
    """
    metadata = read_metadata(paths[0])
    answers = pl.concat([read_table(path) for path in paths])
    write_table(answers, outputs["answers"], ANSWER_SCHEMA, metadata)
    for name, rows, schema in (
        ("cells", cells(answers, params["measurable"]), CELL_SCHEMA),
        ("summary", summarise(answers, params["measurable"]), SUMMARY_SCHEMA),
    ):
        write_table(frame(rows, schema), outputs[name], schema, metadata)


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
    from ghostkv.models.examinee import sources_of
    from ghostkv.runtime.load_policy import fit_budgets

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


def _score(said: str, sample: Mapping[str, Any]) -> float:
    return score(said, sample["references"], sample["rule"])


def _plain(schema) -> list[tuple[str, Any]]:
    return [(field.name, field.type) for field in schema]
