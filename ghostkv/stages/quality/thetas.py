"""The threshold of every policy that names a bytes ratio, fitted on threshold texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ghostkv.files.provenance import metadata
from ghostkv.files.tables import write_rows
from ghostkv.runtime.load_policy import fit_budgets
from ghostkv.stages.quality.schemas import THETA_SCHEMA
from ghostkv.stages.quality.setup import sources_of

if TYPE_CHECKING:
    from ghostkv.stages.quality.jobs import FitThetas


def fit_thetas(job: FitThetas, inputs: Mapping[str, Any], outputs: Mapping[str, str]) -> None:
    """Fit the job's policies on texts of role `threshold`."""
    thetas = fit_budgets(job.policies, sources_of(job, inputs))
    rows = [
        {"policy": policy.label, "ratio": policy.ratio, "theta": theta}
        for policy, theta in zip(job.policies, thetas, strict=True)
    ]
    write_rows(rows, outputs["thetas"], THETA_SCHEMA, metadata(job.code))
