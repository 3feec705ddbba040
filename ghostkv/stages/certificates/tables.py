"""The certificates' tables: their columns, and the rows of one layer as they come."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from ghostkv.elimination.attention import ColdRange
from ghostkv.elimination.ledger import Outcome
from ghostkv.elimination.truth import Oracle
from ghostkv.files.tables import Tables
from ghostkv.stages.certificates.schemas import NESTED, SCHEMAS

# Relative slack of comparing two float64 norms.
_NORM_SLACK = 1e-9


class CertificateTables(Tables):
    """Rows of one layer."""

    def __init__(self) -> None:
        super().__init__(SCHEMAS)

    def add_check(
        self, keys: Mapping, what: str, checks: int, violations: int, level: int | None = None
    ) -> None:
        """Count checks; `keys` holds layer, kv_head, text, domain and design."""
        counted = {"what": what, "level": level, "checks": int(checks), "violations": int(violations)}
        self.add_rows("checks", [{**keys, **counted}])

    def add_outcome(
        self,
        keys: Mapping,
        heads: np.ndarray,
        facts: Mapping,
        outcome: Outcome,
        oracle: np.ndarray,
        cold: np.ndarray,
        norms: np.ndarray,
    ) -> None:
        """One row a head, and the checks that the certificate underwent.

        Parameters
        ----------
        keys : mapping
            layer, kv_head, text, domain, design.
        heads : ndarray of int, shape [group]
        facts : mapping
            `certificate`, `target`, `decision`, `storage`, `record_bytes`; more for the cascade.
        oracle : ndarray, shape [group, queries]
            Elimination of exact scores.
        cold : ndarray, shape [queries]
        norms : ndarray, shape [group, queries]
            ``||o||``; empty without values.
        """
        mass, storage = facts["certificate"] == "mass", facts["storage"]
        group, queries = outcome.elimination.shape
        # A top-k check is a key left out, a mass check a query.
        checks = (
            np.full(group, queries)
            if mass
            else np.rint((outcome.values_unread * cold).sum(axis=1)).astype(int)
        )
        violations = outcome.violated.sum(axis=1).astype(int)
        ratio = {"nested": outcome.bytes_nested, "additive": outcome.bytes_additive}[storage].mean(axis=1)
        ratio_gqa = {"nested": outcome.group_nested, "additive": outcome.group_additive}[storage].mean()
        with_output = mass and norms.size > 0
        for g, head in enumerate(heads):
            row = {
                **keys,
                **facts,
                "head": head,
                "queries": queries,
                "elimination": outcome.elimination[g].mean(),
                "values_unread": outcome.values_unread[g].mean(),
                "oracle_elimination": oracle[g].mean(),
                "bytes_ratio": ratio[g],
                "bytes_ratio_gqa": ratio_gqa,
                "dropped_mass_mean": outcome.dropped[g].mean() if mass else None,
                "dropped_mass_max": outcome.dropped[g].max() if mass else None,
                "certified_mass_mean": outcome.certified[g].mean() if mass else None,
                "output_error_mean": (outcome.error[g] / norms[g]).mean() if with_output else None,
                "output_error_bound_mean": (outcome.error_bound[g] / norms[g]).mean()
                if with_output
                else None,
                "fallback": outcome.fallback[g].mean(),
                "checks": int(checks[g]),
                "violations": int(violations[g]),
            }
            self.add_rows("certificates", [row])
        if storage == "additive":  # the other account of the same outcome
            self.add_check(keys, facts["certificate"], checks.sum(), violations.sum())
            if with_output:
                # "not <=", so that what is not a number counts.
                broken = ~(outcome.error <= outcome.error_bound * (1 + _NORM_SLACK) + _NORM_SLACK * norms)
                self.add_check(keys, "output", broken.size, np.count_nonzero(broken))

    def add_context(
        self,
        keys: Mapping,
        heads: np.ndarray,
        outcome: Outcome,
        oracle: Oracle,
        visible: ColdRange,
        inside: np.ndarray,
    ) -> None:
        """One row a head for the queries of a band, nested storage; `inside` is bool [queries]."""
        by_head = {
            "elimination": outcome.elimination, "values_unread": outcome.values_unread, "oracle_elimination": oracle.elimination,
            "bytes_ratio": outcome.bytes_nested,
        }  # fmt: skip
        about = {**keys, "queries": int(inside.sum()), "cold_keys": visible.cold[inside].mean()}
        about["bytes_ratio_gqa"] = outcome.group_nested[inside].mean()
        for g, head in enumerate(heads):
            means = {name: values[g, inside].mean() for name, values in by_head.items()}
            self.add_rows("context", [{**about, "head": head, **means}])


def held(
    frame: pl.DataFrame, storage: str, certificate: str, target: float = 0.0, decision: str = "head"
) -> pl.DataFrame:
    """Rows of the cascade at one target."""
    return frame.filter(
        (pl.col("design") == NESTED)
        & (pl.col("decision") == decision)
        & (pl.col("storage") == storage)
        & (pl.col("certificate") == certificate)
        & ((pl.col("target") - target).abs() < 1e-6)
    )
