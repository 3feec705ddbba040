"""The claims that the README makes: rows of its table, each a headline figure."""

from __future__ import annotations

_MASS = "Elimination with thresholds calibrated for dropped mass ≤ 1 %"
_CERTIFIED = "Certificate for dropped mass ≤ 5 % of every query: elimination"
_LAYER = "Attention of one layer on 2 CPU threads, torch's time over it: shape of Llama-3.1-8B, 32,768 generated keys"
_NEEDLE = "retrieval.single_needle_at_025."
ROWS = (
    ("Certificate for the top 32, FER = 0 for every query: elimination", "certificates.topk.elimination", "percent"),
    ("the bytes ratio there, per head", "certificates.topk.bytes_ratio", "ratio"),
    ("the bytes ratio there, GQA-true", "certificates.topk.bytes_ratio_gqa", "ratio"),
    (_CERTIFIED, "certificates.mass_5pct.elimination", "percent"),
    ("the bytes ratio there, GQA-true", "certificates.mass_5pct.bytes_ratio_gqa", "ratio"),
    ("the same where the heads of a group decide together", "certificates.mass_5pct.group.bytes_ratio_gqa", "ratio"),
    ("and where that may fail with probability 1e-12 a query", "certificates.randomised.mass_5pct.bytes_ratio_gqa", "ratio"),
    ("Checks of certificates against exact attention", "certificates.checks", "integer"),
    ("violations among them", "certificates.violations", "integer"),
    ("Heads with a safe point on held-out text", "frontier.safe_head_share", "percent"),
    ("Elimination with thresholds calibrated for FER ≤ 1 %", "frontier.elimination_at_fer_1pct", "percent"),
    ("the FER measured there", "frontier.fer_at_fer_1pct", "percent"),
    ("the softmax mass dropped there", "frontier.dropped_mass_at_fer_1pct", "percent"),
    ("the bytes ratio there, per head", "frontier.bytes_ratio_at_fer_1pct", "ratio"),
    ("the bytes ratio there, GQA-true", "frontier.bytes_ratio_gqa_at_fer_1pct", "ratio"),
    (_MASS, "frontier.elimination_at_dropped_mass_1pct", "percent"),
    ("the bytes ratio there, GQA-true", "frontier.bytes_ratio_gqa_at_dropped_mass_1pct", "ratio"),
    ("Historical protocol: heads with a safe point", "historical.safe_head_share", "percent"),
    ("The model itself decodes under elimination: bytes ratio, GQA-true", "quality.at_030.bytes_ratio_gqa", "ratio"),
    ("KL of its next token from the dense model's there (nats)", "quality.at_030.kl", "tiny"),
    ("The strongest rival's KL over that, at the same bytes", "quality.best_rival_kl_ratio", "factor"),
    ("its first choice is the dense model's there", "quality.at_030.top1", "percent"),
    ("A quantised cache that is read whole, the best one: bytes ratio", "quality.quantised.bytes_ratio_gqa", "ratio"),
    ("KL there", "quality.quantised.kl", "tiny"),
    ("Records over a quantised cache: bytes ratio, GQA-true", "quality.stacked.bytes_ratio_gqa", "ratio"),
    ("KL there", "quality.stacked.kl", "tiny"),
    ("Attention outputs at 1/16 of the bytes, GQA-true: error of the best rival over ours", "peers.best_rival_over_ours_1_16", "factor"),
    ("the same at 1/4", "peers.best_rival_over_ours_1_4", "factor"),
    ("the same at 1/4, a fixed number of keys a query and no compensation", "peers.record_alone_1_4", "factor"),
    (_LAYER, "speed.layer_32k", "factor"),
    ("the output error there", "speed.output_error_32k", "percent"),
    ("The fastest dense decode step of the whole model over that under elimination, 8,192 tokens", "speed.step_smollm2_8k", "factor"),
    ("Single needles up to 4,096 tokens: accuracy over the dense model's", _NEEDLE + "relative_accuracy", "percent"),
    ("the bytes ratio there, GQA-true", _NEEDLE + "bytes_ratio_gqa", "ratio"),
    (
        "Heads of which a certified index reads under half of the records at 8,192 tokens",
        "hierarchy.heads_reading_under_half_at_8k", "percent",
    ),
)  # fmt: skip
