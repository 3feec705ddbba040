"""What policies take from threshold texts: the threshold of a bytes ratio, and which KV heads stay dense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ghostkv.files.provenance import metadata
from ghostkv.files.tables import write_rows
from ghostkv.runtime.load_policy import dense_heads, fit_budgets
from ghostkv.runtime.seat_fit import fit_selectors, needs_threshold
from ghostkv.stages.quality.schemas import DENSE_SCHEMA, THETA_SCHEMA
from ghostkv.stages.quality.setup import sources_of

if TYPE_CHECKING:
    from ghostkv.stages.quality.jobs import FitPolicies


def fit_policies(job: FitPolicies, inputs: Mapping[str, Any], outputs: Mapping[str, str]) -> None:
    """Fit the job's policies on texts of role `threshold`."""
    sources = sources_of(job, inputs)
    sized = [policy for policy in job.policies if policy.policy == "ghost"]
    asked = [policy for policy in job.policies if policy.policy == "selector" and needs_threshold(policy)]
    found = [*fit_budgets(sized, sources), *fit_selectors(asked, sources)]
    thetas = [
        {"policy": policy.label, "ratio": policy.ratio, "theta": theta}
        for policy, theta in zip((*sized, *asked), found, strict=True)
    ]
    dense = [
        {"policy": policy.label, "layer": layer, "kv_head": head, "bytes_ratio_gqa": ratio}
        for policy in job.policies
        for layer, heads in dense_heads(policy, sources).items()
        for head, ratio in heads.items()
    ]
    write_rows(thetas, outputs["thetas"], THETA_SCHEMA, metadata(job.code))
    write_rows(dense, outputs["dense"], DENSE_SCHEMA, metadata(job.code))
