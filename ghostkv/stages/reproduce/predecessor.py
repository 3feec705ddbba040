"""The predecessor's rows again, from the tensors that it published with them.

Its protocol (github.com/manishklach/ghostkv-lab, MIT, `experiments/capture_real_attention.py`): scores of every query with every
key of one head, causal or not; a Gaussian projection to m dimensions, whose seed says what it is of; Spearman's correlation over
20,000 of the flattened matrix's entries; the overlap of the largest entries of both matrices; and a row counts as eliminated where
its largest sketched score lies below theta. The files hold float16, it measured float32: `_undecided` says where that matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from ghostkv.files.errors import TableError
from ghostkv.files.io import stable_seed
from ghostkv.files.progress import progress
from ghostkv.files.provenance import metadata
from ghostkv.files.tables import write_rows
from ghostkv.stages.reproduce.schemas import PREDECESSOR_SCHEMA

if TYPE_CHECKING:
    from ghostkv.stages.reproduce.jobs import RepeatPredecessor

_SEED, _SAMPLED, _TOPS = 42, 20_000, (8, 16, 32)
# Its prompts by number, as a capture names them by their text.
_CELL = ("prompt_text", "requested_context_length", "layer_idx", "head_idx")
_MEASURES = (
    "rank_correlation",
    "top8_overlap",
    "top16_overlap",
    "top32_overlap",
    "elimination_rate",
    "false_elimination_rate",
)
# Differences up to this are what float16 leaves of a mean; tensors of float32 that round to the files, to ask about larger ones.
_ALIKE, _UNROUNDED = 1e-4, 64


def repeat_predecessor(
    job: RepeatPredecessor, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]
) -> None:
    """Write every figure of the rows whose tensors lie among `inputs.files` beside what the predecessor published.

    Raises
    ------
    TableError
        A file is damaged, lacks what the predecessor's have, or has no row in the table.
    """
    rows: list[dict[str, Any]] = []
    if files := list(inputs.get("files", ())):
        table = _published(files[0])
        for file in progress(files[1:], desc="tensors", unit="file"):
            tensors = _tensors(file)
            for cell, published in _rows_of(tensors, table, file):
                rows += _compared(tensors, cell, published, job.seed)
    write_rows(rows, outputs["predecessor"], PREDECESSOR_SCHEMA, metadata(job.code))


def _published(path: str) -> pl.DataFrame:
    wanted = [*_CELL, "prompt_idx", "sketch_dim", "theta", *_MEASURES]
    try:
        return pl.read_csv(path, columns=wanted)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise TableError(
            f"{path}: it cannot be read as the predecessor's table ({error}). Accepted: the metrics.csv of ghostkv-lab.\n"
            "  Write: predecessor: null   (under reproduce)"
        ) from None


def _tensors(path: str) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = dict(file)
        return {**found, "q": found["q"].astype(np.float16), "k": found["k"].astype(np.float16)}
    except (OSError, ValueError, KeyError) as error:
        raise TableError(
            f"{path}: it cannot be read as tensors of the predecessor ({error!r}). Accepted: its .npz files with q and k.\n"
            "  Remove it, or write: predecessor: null   (under reproduce)"
        ) from None


def _rows_of(
    tensors: Mapping[str, np.ndarray], table: pl.DataFrame, path: str
) -> Iterator[tuple[dict[str, Any], pl.DataFrame]]:
    """The table's rows of a file by projection; the file says by its prompt and lengths which they are."""
    about = [tensors[name].item() for name in ("prompt", "requested_context_length", "layer_idx", "head_idx")]
    rows = table.filter(*(pl.col(name) == value for name, value in zip(_CELL[1:], about[1:], strict=True)))
    rows = rows.filter(pl.lit(about[0]).str.starts_with(pl.col("prompt_text")))
    if rows.is_empty():
        raise TableError(
            f"{path}: {Path(path).with_name('metrics.csv')} has no row of its prompt, length, layer and head. Accepted: files that "
            "belong together.\n  Write: predecessor: null   (under reproduce)"
        )
    for (sketch_dim,), part in rows.group_by("sketch_dim", maintain_order=True):
        numbers = part.row(0, named=True)
        seed = (
            _SEED
            + 10_000 * numbers["prompt_idx"]
            + 10 * about[1]
            + 100 * about[2]
            + 1_000 * about[3]
            + sketch_dim
        )
        yield (
            {
                "layer": about[2],
                "head": about[3],
                "sketch_dim": sketch_dim,
                "seed": seed,
                "file": Path(path).name,
            },
            part,
        )


def _compared(
    tensors: Mapping[str, np.ndarray], cell: dict[str, Any], published: pl.DataFrame, seed: int
) -> Iterator[dict[str, Any]]:
    """Rows of one projection, a measure each."""
    queries, keys = (tensors[name].astype(np.float32) for name in "qk")
    exact, sketched = score_matrices(queries, keys, cell["sketch_dim"], cell["seed"])
    of_all = rank_measures(exact, sketched, cell["seed"])
    about = {"tokens": len(keys), **{name: cell[name] for name in ("layer", "head", "sketch_dim")}}
    for row in published.iter_rows(named=True):
        ours = of_all | row_measures(exact, sketched, row["theta"])
        far = {name for name in _MEASURES if abs(ours[name] - row[name]) > _ALIKE}
        undecided = _undecided(tensors, cell, row, far, seed) if far else set()
        for name in _MEASURES:
            figures = {"ours": ours[name], "theirs": row[name], "difference": ours[name] - row[name]}
            yield about | {"theta": row["theta"], "measure": name, "undecided": name in undecided} | figures


def score_matrices(
    queries: np.ndarray, keys: np.ndarray, sketch_dim: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all pairs and their estimates from a Gaussian projection, each [queries, keys].

    The one is divided by sqrt(head_dim), the other by sqrt(sketch_dim), as the predecessor did.
    """
    width = queries.shape[1]
    projection = np.random.default_rng(seed).normal(0.0, 1.0 / np.sqrt(sketch_dim), (width, sketch_dim))
    exact = queries @ keys.T / np.float32(np.sqrt(width))
    return exact, (queries @ projection) @ (keys @ projection).T / np.sqrt(sketch_dim)


def rank_measures(exact: np.ndarray, sketched: np.ndarray, seed: int) -> dict[str, float]:
    """Spearman's correlation over a sample of both matrices, and the overlaps of their largest entries."""
    exact, sketched = exact.ravel(), sketched.ravel()
    sampled = np.random.default_rng(seed).choice(exact.size, min(_SAMPLED, exact.size), replace=False)
    correlation = spearmanr(exact[sampled], sketched[sampled]).statistic
    return {"rank_correlation": float(correlation)} | _overlaps(exact, sketched)


def _overlaps(exact: np.ndarray, sketched: np.ndarray) -> dict[str, float]:
    largest = {top: [np.argpartition(one, -top)[-top:] for one in (exact, sketched)] for top in _TOPS}
    return {f"top{top}_overlap": len(np.intersect1d(*both)) / top for top, both in largest.items()}


def row_measures(exact: np.ndarray, sketched: np.ndarray, theta: float) -> dict[str, float]:
    """Rows whose largest estimate is below theta, and the share of them whose largest score is not."""
    eliminated = sketched.max(axis=1) < theta
    lost = eliminated & (exact.max(axis=1) > theta)
    return {
        "elimination_rate": float(eliminated.mean()),
        "false_elimination_rate": float(lost.sum() / max(eliminated.sum(), 1)),
    }


def _undecided(
    tensors: Mapping[str, np.ndarray], cell: dict[str, Any], row: dict[str, Any], far: set[str], seed: int
) -> set[str]:
    """Measures that come out as published for some float32 tensors that round to the files' float16."""
    rng = np.random.default_rng(stable_seed(seed, cell["file"], cell["sketch_dim"]))
    found: set[str] = set()
    for _ in range(_UNROUNDED):
        queries, keys = (_unrounded(tensors[name], rng) for name in "qk")
        exact, sketched = score_matrices(queries, keys, cell["sketch_dim"], cell["seed"])
        ours = _overlaps(exact.ravel(), sketched.ravel()) | row_measures(exact, sketched, row["theta"])
        found |= {name for name in far & ours.keys() if abs(ours[name] - row[name]) <= _ALIKE}
        if found == far:
            break
    return found


def _unrounded(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Float32 values that round to these of float16, drawn evenly between their neighbours."""
    halves = np.spacing(np.abs(values)).astype(np.float32) / 2
    drawn = values.astype(np.float32) + halves * rng.uniform(-1, 1, values.shape).astype(np.float32)
    return np.where(drawn.astype(np.float16) == values, drawn, values.astype(np.float32))
