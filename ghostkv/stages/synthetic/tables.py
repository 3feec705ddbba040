"""Tables of the synthetic stage, and how far what was measured lies from what closed forms expect."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
from scipy.special import ndtri, stdtr, stdtrit

_DESIGN = [
    ("generator", pa.string()),
    ("codec", pa.string()),  # "exact" is the oracle, or what no codec is part of
    ("code_bytes", pa.int16()),
]
AUDIT_SCHEMA = pa.schema(
    [
        *_DESIGN,
        ("draw", pa.int16()),
        ("measure", pa.string()),
        ("at", pa.float64()),  # top of an overlap, theta of an elimination; null where there is none
        ("queries", pa.int32()),
        ("keys", pa.int32()),
        ("value", pa.float64()),
        ("expected", pa.float64()),  # null where no closed form is known
        ("kind", pa.string()),  # "exact" or "approximate"; null without a closed form
    ]
)
_LOSSES = [(name, pa.float32()) for name in ("elimination", "fer", "dropped_mass_mean", "dropped_mass_p99")]
_BYTES = [("bytes_ratio", pa.float32()), ("bytes_ratio_gqa", pa.float32())]
_TRADEOFF = [
    *_DESIGN,
    ("record_bytes", pa.int16()),
    ("rule", pa.string()),
    ("tokens", pa.int32()),
    ("draw", pa.int16()),
    ("head", pa.int16()),
    ("queries", pa.int32()),
    ("theta", pa.float32()),  # null: no threshold meets the target
]
SWEEP_SCHEMA = pa.schema([*_TRADEOFF, *_LOSSES, *_BYTES])
POINT_SCHEMA = pa.schema(
    [
        *_TRADEOFF,
        ("target_metric", pa.string()),
        ("target", pa.float32()),
        ("method", pa.string()),
        *_LOSSES,
        *_BYTES,
        # What one threshold on normal estimates of this correlation would eliminate at the FER that was measured.
        ("expected_elimination", pa.float32()),
    ]
)
STEP_METRICS = (
    "elimination",
    "elimination_worst",
    "survivors",
    "survivors_union",
    "bytes_ratio",
    "bytes_ratio_gqa",
    "fer",
    "fer_worst",
    "dropped_mass",
    "dropped_mass_worst",
    "needle_mass",
    "needle_found",  # share of the group's heads that keep the key asked for
    "needle_found_group",  # 1 where the group as a whole reads it
)
DECODE_SCHEMA = pa.schema(
    [
        *_DESIGN,
        ("record_bytes", pa.int16()),
        ("rule", pa.string()),
        ("target", pa.float32()),
        ("draw", pa.int16()),
        ("step", pa.int32()),
        ("tokens", pa.int32()),
        ("cold", pa.int32()),
        *((name, pa.float32()) for name in STEP_METRICS),
        ("needle_age", pa.int32()),  # null where the step asked for nothing
        ("needle_wanted", pa.float32()),  # mass that the planted key would have among normal scores
    ]
)
CHECK_SCHEMA = pa.schema(
    [
        *_DESIGN,
        ("measure", pa.string()),
        ("at", pa.float64()),
        ("kind", pa.string()),
        ("draws", pa.int16()),
        ("queries", pa.int32()),
        ("measured", pa.float64()),
        ("expected", pa.float64()),
        ("standard_error", pa.float64()),  # of measured less expected, over draws
        ("low", pa.float64()),  # 95 % Student interval of the measured mean
        ("high", pa.float64()),
        ("sigma", pa.float64()),  # deviation as a normal quantile of the same probability as Student's t
        (
            "limit",
            pa.float64(),
        ),  # sigma that one of all exact comparisons passes by chance with 1 % probability
    ]
)
FAMILY_ERROR = 0.01


def compare(audit: pl.DataFrame) -> pl.DataFrame:
    """Every closed form against the mean over draws.

    Draws are independent, queries and heads of one draw are not: the standard error is that of draw means.

    Parameters
    ----------
    audit : DataFrame
        Columns of `AUDIT_SCHEMA`.

    Returns
    -------
    DataFrame
        Columns of `CHECK_SCHEMA`; a row for each design, measure and place with a closed form.
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


SCHEMAS = {"audit": AUDIT_SCHEMA, "sweep": SWEEP_SCHEMA, "points": POINT_SCHEMA, "decode": DECODE_SCHEMA}
