"""The rates of `rates.py`, fitted on finished runs: least squares of relative errors, no rate below zero.

Only `python -m ghostkv.stages.plan` comes here. A term that no run tells apart from the others gets no rate.
"""

from __future__ import annotations

import pprint
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import lsq_linear

from ghostkv.files.io import write_text
from ghostkv.stages.plan.disk import disk_terms
from ghostkv.stages.plan.finished import complete_stages, ended_jobs, sizes_on_disk
from ghostkv.stages.plan.planning import planned_jobs
from ghostkv.stages.plan.workload import Workload

_HEAD = '''"""Written by `python -m ghostkv.stages.plan`, fitted on finished runs; see docs/large.md. Do not edit.

RATES: by rule, CPU seconds and GB of memory a unit of each term (`ghostkv/stages/plan/terms.py`). DISK: by stage, GB a unit
of each term. REFERENCE: what the machine of those runs was measured at (`ghostkv/stages/plan/machine.py`).
"""
# fmt: off

'''


# What arithmetic knows of rates. A process that runs a model holds its weights and its cache at least once; K and V are read as
# float16 and worked with as float32.
_MEMORY = {"weights": (1.0, 3.0), "cache": (1.0, 4.0), "kv": (2.0, 12.0)}
_CPU = {"start": (0.4, np.inf)}
_DISK = {"captured": (1.0, 1.1), "weights": (1.0, 1.1)}
# A product of matrices takes as long in one rule as in another.
_SHARED = ("weights", "matmul", "attention")


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: what it had to do, and where its results lie."""

    work: Workload
    results: Path


def fitted(runs: Sequence[FinishedRun]) -> tuple[dict, dict]:
    """`RATES` and `DISK` of these runs."""
    planned = [(run, planned_jobs(run.work)) for run in runs]
    seen = [one for run, jobs in planned for one in ended_jobs(jobs, run.results)]
    cpu = _least([(job.rates, job.terms.cpu, usage.cpu_time) for job, usage in seen], _CPU, _SHARED)
    memory = _least([(job.rates, job.terms.memory, usage.max_rss / 1000) for job, usage in seen], _MEMORY)
    left = [
        (stage, disk_terms(run.work, stage), size)
        for run, jobs in planned
        for stage, size in sizes_on_disk(
            complete_stages(jobs, run.results), run.results, run.work.config.model.name
        ).items()
    ]
    rates = {rule: {"cpu": cpu[rule], "memory": memory[rule]} for rule in sorted(cpu)}
    return rates, dict(sorted(_least(left, _DISK).items()))


def _least(
    rows: Sequence[tuple[str, Mapping[str, float], float]],
    bounds: Mapping[str, tuple[float, float]],
    shared: Collection[str] = (),
) -> dict[str, dict[str, float]]:
    """Rates by name under which terms come nearest to what was measured, by relative error.

    Parameters
    ----------
    rows : sequence of (str, mapping, float)
        Whose rates, terms, and what was measured.
    bounds : mapping of str to tuple of float
        The least and the largest rate of a term that arithmetic knows something of.
    shared : collection of str
        Terms whose rate is one for all names.
    """
    columns: dict[tuple[str, str], int] = {}
    for name, terms, _ in rows:
        for term in terms:
            columns.setdefault(("" if term in shared else name, term), len(columns))
    matrix, scale = np.zeros((len(rows), len(columns))), np.array([max(value, 1e-9) for *_, value in rows])
    for row, (name, terms, _) in enumerate(rows):
        for term, value in terms.items():
            matrix[row, columns["" if term in shared else name, term]] = value / scale[row]
    # Jobs of a rule that a run has many of count no more than one: each rule and run is as good as another.
    alike = Counter((name, tuple(sorted(terms.items()))) for name, terms, _ in rows)
    weight = np.array([alike[name, tuple(sorted(terms.items()))] ** -0.5 for name, terms, _ in rows])
    matrix *= weight[:, None]
    size = np.maximum(np.abs(matrix).max(axis=0), 1e-30)
    limits = np.array([bounds.get(term, (0.0, np.inf)) for _, term in columns]).T * size
    limits[1] = np.maximum(limits[1], limits[0] + 1e-12)
    found = lsq_linear(matrix / size, weight, limits).x / size
    rates = {column: float(f"{found[number]:.4g}") for column, number in columns.items()}
    # What a term that no run had costs is not known; where arithmetic knows a least, that is taken.
    known = {column: rates[column] if size[number] > 1e-30 else bounds.get(column[1], (0.0,))[0]
             for column, number in columns.items()}  # fmt: skip
    return {
        name: {
            term: rate for term in dict.fromkeys(term for other, terms, _ in rows if other == name for term in terms)
            if (rate := known["" if term in shared else name, term]) > 1e-9
        }
        for name in dict.fromkeys(name for name, *_ in rows)
    }  # fmt: skip


def write_rates(rates: Mapping, disk: Mapping, reference: Mapping[str, float], path: Path) -> None:
    """Write `rates.py` anew."""
    parts = {"REFERENCE": dict(reference), "RATES": rates, "DISK": disk}
    body = "\n".join(
        f"{name} = {pprint.pformat(value, width=110, sort_dicts=False)}" for name, value in parts.items()
    )
    write_text(_HEAD + body + "\n", path)
