"""The tables of stage `bandwidth`."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.files.seals import MAY_BE_EMPTY

# Units after which a prefetcher has caught up, of which a fit takes the best.
RAMPS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
# Metadata of `samples` and of all tables made of them, "true" or "false": whether the file system of the results
# forgets a file's pages when asked, without which nothing on disk is measured; whether it has O_DIRECT.
DROPPED, DIRECT = "page_cache_dropped", "o_direct"

PATTERN_SCHEMA = pa.schema(
    [
        *((name, pa.int16()) for name in ("layer", "kv_head")),
        *((name, pa.string()) for name in ("text", "domain")),
        ("tokens", pa.int32()),
        ("position", pa.int32()),  # of the query
        ("cold", pa.int32()),
        ("survivors", pa.list_(pa.int32())),  # of any head of the group, ascending
    ]
)
# Means over some queries and all heads of a layer of one text.
LOSS_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("text", pa.string()),
        ("domain", pa.string()),
        ("cache", pa.string()),  # type that cold keys are held in; sinks and hot window are in fp16
        ("theta", pa.float64()),  # of policy ghost over it, for all heads; null: the whole cache is read
        ("queries", pa.int32()),
        ("share_head", pa.float64()),  # survivors of cold keys
        ("share_group", pa.float64()),  # survivors of any head of the group
        ("bytes_ratio_gqa", pa.float64()),  # over full fp16, records and scales included
        ("dropped_mass", pa.float64()),
        ("output_error", pa.float64()),  # from exact attention over fp16, with tail compensation
    ]
)
SAMPLE_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("tier", pa.string()),  # what is timed, with parameters of its own
        ("pattern", pa.string()),  # random, stride, survivors or scan
        ("row_bytes", pa.int32()),
        ("share", pa.float64()),  # of rows read
        ("depth", pa.int32()),  # threads that read
        *((name, pa.int64()) for name in ("rows", "requests", "units")),
        ("unit", pa.int32()),
        ("features", pa.list_(pa.float64(), 3 + len(RAMPS))),
        ("rounds", pa.int16()),
        ("repeats", pa.int16()),  # in a round
        ("seconds", pa.float64()),  # the least of the rounds' medians
        ("seconds_low", pa.float64()),  # over all repeats
        ("seconds_median", pa.float64()),
        ("seconds_high", pa.float64()),
    ]
)
COUNT_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("tier", "instrument", "pattern")),
        ("row_bytes", pa.int32()),
        ("share", pa.float64()),
        ("unit", pa.int32()),
        ("wanted_bytes", pa.int64()),  # rows alone
        ("counted_bytes", pa.int64()),  # by the model, from the rows' addresses
        ("measured_bytes", pa.int64()),  # by the instrument
        ("expected_bytes", pa.float64()),  # by the formula for rows drawn at random
        ("error", pa.float64()),  # |counted / measured - 1|
        ("expected_error", pa.float64()),  # expected / measured - 1
        ("cold", pa.bool_()),  # no page was in memory before; null where no file is read
    ],
    metadata=MAY_BE_EMPTY,
)
FIT_SCHEMA = pa.schema(
    [
        ("tier", pa.string()),
        *((name, pa.int32()) for name in ("configurations", "fitted")),
        *((name, pa.float64()) for name in ("gb_s", "latency_us", "overhead_us", "ramp_us", "ramp_units")),
        ("unit", pa.int32()),
        ("fitted_error_median", pa.float64()),
        ("error_median", pa.float64()),  # of held-out configurations
        ("error_p90", pa.float64()),
        ("error_worst", pa.float64()),
        ("worst", pa.string()),
        ("seconds_spread_median", pa.float64()),  # (p90 - p10) / median of a configuration's repeats
    ]
)
ERROR_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("name", "tier", "pattern")),
        ("row_bytes", pa.int32()),
        ("share", pa.float64()),
        ("depth", pa.int32()),
        ("held_out", pa.bool_()),
        *((name, pa.float64()) for name in ("seconds", "modelled_seconds")),
        ("error", pa.float64()),  # modelled / measured - 1
    ]
)
SURVIVOR_SCHEMA = pa.schema(
    [
        ("shape", pa.string()),
        ("scenario", pa.string()),  # constant or trend
        ("measured", pa.bool_()),  # false: extrapolated
        ("context", pa.int32()),
        ("share_head", pa.float64()),  # survivors of cold keys, mean over heads and texts
        ("share_group", pa.float64()),  # survivors of any head of the group
        ("share_group_low", pa.float64()),  # of the layer with the fewest
        ("share_group_high", pa.float64()),
        ("exponent", pa.float64()),  # d log share / d log cold keys; 0 where constant
        ("heads", pa.int32()),
        ("queries", pa.int64()),
    ]
)
STEP_SCHEMA = pa.schema(
    [
        ("shape", pa.string()),  # whose layers
        *((name, pa.string()) for name in ("placement", "scheme", "scenario")),
        ("context", pa.int32()),
        ("share", pa.float64()),  # survivors (pages, for Quest) of cold keys, united over the group
        ("stored_bytes", pa.float64()),  # what memory holds of the whole context
        ("fast_bytes", pa.float64()),  # sinks and hot window, in the fastest tier
        ("record_bytes", pa.float64()),
        ("kv_bytes", pa.float64()),  # whole units of cold K,V that reach the compute
        ("near_bytes", pa.float64()),  # read beside the memory, not across the link
        ("link_bytes", pa.float64()),  # everything that reaches the compute
        *((f"{name}_seconds", pa.float64()) for name in ("weights", "record", "kv", "hidden")),
        ("attention_seconds", pa.float64()),  # a step without the weights
        ("step_seconds", pa.float64()),
    ]
)
CROSSING_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("shape", "placement", "scenario", "scheme", "against")),
        ("goal", pa.string()),  # what both lose: equal output error, or a dropped mass of ours
        (
            "share",
            pa.float64(),
        ),  # survivors that ours needs for it, united over the group; null where it cannot
        ("dropped_mass", pa.float64()),  # of ours
        ("output_error", pa.float64()),
        ("their_output_error", pa.float64()),  # null where it was not measured
        ("context", pa.float64()),  # from which the scheme is faster; null where it never is
        ("always", pa.bool_()),  # faster at every context tried
        ("headline_context", pa.int32()),
        ("speedup", pa.float64()),  # attention time of the other over the scheme's, at the headline context
        ("step_speedup", pa.float64()),  # the same with weights
        ("bytes_ratio", pa.float64()),
    ]
)
MAP_SCHEMA = pa.schema(
    [
        ("map", pa.string()),  # bandwidth or unit
        ("shape", pa.string()),
        ("x", pa.float64()),  # K,V bandwidth over the fastest tier's, or bytes of a unit
        ("share", pa.float64()),  # survivors, united over the group
        ("scheme", pa.string()),
        ("against", pa.string()),
        ("context", pa.int32()),
        ("speedup", pa.float64()),
    ]
)
SENSITIVITY_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("shape", "placement", "scheme")),
        ("context", pa.int32()),
        ("parameter", pa.string()),
        ("low", pa.float64()),  # values tried
        ("high", pa.float64()),
        ("seconds", pa.float64()),  # attention time as configured
        *((name, pa.float64()) for name in ("low_seconds", "high_seconds")),
        ("elasticity", pa.float64()),  # d log seconds / d log parameter; null for parameters that may be 0
    ]
)
MODEL_SCHEMAS = {
    "fits": FIT_SCHEMA,
    "errors": ERROR_SCHEMA,
    "survivors": SURVIVOR_SCHEMA,
    "steps": STEP_SCHEMA,
    "crossings": CROSSING_SCHEMA,
    "maps": MAP_SCHEMA,
    "sensitivity": SENSITIVITY_SCHEMA,
}
MEASURED_SCHEMAS = {"samples": SAMPLE_SCHEMA, "counts": COUNT_SCHEMA}
