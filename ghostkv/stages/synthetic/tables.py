"""Tables of the synthetic stage, and how far what was measured lies from what closed forms expect."""

from __future__ import annotations

import numpy as np
import polars as pl
from scipy.special import ndtri, stdtr, stdtrit

FAMILY_ERROR = 0.01


def compare(audit: pl.DataFrame) -> pl.DataFrame:
    """Every closed form against the mean over draws: a row of `CHECK_SCHEMA` for each design, measure and place with
    a closed form.

    Draws are independent, queries and heads of one draw are not: the standard error is that of draw means.
    """
    keys = ["generator", "codec", "code_bytes", "measure", "at", "kind"]
    known = audit.filter(pl.col("expected").is_not_null())
    gap = pl.col("value") - pl.col("expected")
    found = known.group_by(keys, maintain_order=True).agg(
        pl.len().alias("draws"),
        pl.col("queries").sum(),
        pl.col("value").mean().alias("measured"),
        pl.col("expected").mean(),
        (gap.std() / pl.len().sqrt()).alias("standard_error"),
        (pl.col("value").std() / pl.len().sqrt()).alias("spread"),
        gap.mean().alias("gap"),
    )
    draws, error = found["draws"].to_numpy(), found["standard_error"].fill_null(np.nan).to_numpy()
    reach = stdtrit(np.maximum(draws - 1, 1), 0.975) * found["spread"].fill_null(np.nan).to_numpy()
    exact = int((found["kind"] == "exact").sum())
    measured = found["measured"].to_numpy()
    return found.drop("spread", "gap").with_columns(
        pl.Series("low", measured - reach).fill_nan(None),
        pl.Series("high", measured + reach).fill_nan(None),
        pl.Series("sigma", normal_sigma(found["gap"].to_numpy(), error, draws)).fill_nan(None),
        pl.lit(float(-ndtri(FAMILY_ERROR / 2 / max(exact, 1)))).alias("limit"),
    )


def normal_sigma(gap: np.ndarray, error: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Deviations in standard errors, as the normal quantiles that are as improbable as Student's t of so many draws.

    NaN with one draw; where all draws agree, 0 if they agree with the expectation to rounding, else infinite.
    """
    freedom = np.maximum(np.asarray(draws) - 1.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(np.abs(gap) <= 1e-9, 0.0, np.abs(gap) / error)
    sigma = -ndtri(np.maximum(stdtr(freedom, -t), 1e-300))
    return np.where(np.asarray(draws) > 1, sigma, np.nan)
