"""What quality's jobs share: token ids of a text, and where policies take their parts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostkv.files.errors import ConfigError, TextError
from ghostkv.files.io import read_table


def token_ids(tokenizer: Any, content: str, params: Mapping, text: str) -> list[int]:
    wanted = params["context"] + params["continuation"]
    # One more, if there is one: the last position's next token.
    ids = tokenizer(content, truncation=True, max_length=wanted + 1, verbose=False)["input_ids"]
    if len(ids) < wanted:
        raise TextError(
            f"text {text!r} has {len(ids)} tokens with this model's tokenizer, fewer than the {wanted} that its context "
            f"({params['context']}) and quality.continuation ({params['continuation']}) take together.\n"
            f"  Write: tokens: {len(ids)}   (under capture), or longer texts"
        )
    return ids


def sources_of(sketch: str, params: Mapping) -> Any:
    from ghostkv.runtime.load_policy import Sources

    if list(params["layers"]) != list(range(params["model_layers"])):
        raise ConfigError(
            f"config: capture.layers records {len(params['layers'])} of the model's {params['model_layers']} layers, "
            "and a model that decodes needs records of all. Accepted: all.\n  Write: layers: all   (under capture)"
        )
    described = read_table(Path(params["captures"][0]["folder"]) / "layers.parquet")
    return Sources(
        params["layers"], int(described["heads"][0]), Path(sketch), params["captures"], Path(params["points"]),
        params["start"],
    )  # fmt: skip
