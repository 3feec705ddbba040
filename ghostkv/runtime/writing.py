"""What a model writes when nothing prompts it further: greedy continuations of one context, side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from ghostkv.models.tokenizer import ModelTokenizer
    from ghostkv.runtime.continuation import Continuation
    from ghostkv.runtime.policy import Policy

WRITING_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("domain", pa.string()),
        ("policy", pa.string()),
        ("prompt", pa.string()),  # its end
        ("output", pa.string()),
        ("tokens", pa.int32()),
        ("same", pa.int32()),  # tokens before the first that differs from the dense model's
        ("bytes_ratio_gqa", pa.float64()),
        ("seconds", pa.float64()),
    ]
)
# Characters of the prompt that stand before a continuation.
_PROMPT = 300


def write_beside(
    begun: Continuation, policies: Iterable[Policy], tokenizer: ModelTokenizer, tokens: int
) -> list[dict[str, Any]]:
    """Rows of `WRITING_SCHEMA` but for text and domain: the dense model's continuation, then each policy's.

    Parameters
    ----------
    tokens : int
        Tokens that each writes, one at a time.
    """
    prompt = tokenizer.decode(begun.ids[: begun.context + 1])[-_PROMPT:]
    dense, _, seconds = begun.generate(begun.dense, tokens)
    said = [("dense", dense, 1.0, seconds)]
    for policy in policies:
        ids, traffic, seconds = begun.generate(policy, tokens)
        said.append((policy.name, ids, traffic.summary()["bytes_ratio_gqa"], seconds))
    return [
        {
            "policy": name,
            "prompt": prompt,
            "output": tokenizer.decode(ids),
            "tokens": len(ids),
            "same": next(
                (n for n, (one, other) in enumerate(zip(ids, dense, strict=False)) if one != other), len(ids)
            ),
            "bytes_ratio_gqa": ratio,
            "seconds": seconds,
        }
        for name, ids, ratio, seconds in said
    ]
