"""A capture on disk: what one model's attention saw on one text.

A capture is a folder of three Parquet files. `kv.parquet` and `queries.parquet` hold one row group per layer,
so that a layer is read without touching the others and written without holding them; `layers.parquet`
describes each layer and carries the proof that the capture is true (the error of attention recomputed from
the file).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from ghostkv.captures.finite import refuse_unfit
from ghostkv.files.errors import CaptureError, TableError
from ghostkv.files.io import (
    ParquetAppender,
    fixed_list,
    from_fixed_list,
    read_metadata,
    read_table,
)
from ghostkv.files.seals import SealedParquet, damaged
from ghostkv.files.tables import write_rows

LAYER_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("kind", pa.string()),  # "global" or "sliding"
        ("window", pa.int32()),  # visible keys are position-window+1..position; 0 sees all
        ("scale", pa.float64()),  # the model's own: score = scale * (q . k)
        ("softcap", pa.float64()),  # 0 for none; else score = softcap * tanh(score / softcap)
        *((name, pa.int16()) for name in ("heads", "kv_heads", "head_dim")),
        ("value_dim", pa.int16()),  # 0 where values were not captured
        ("tokens", pa.int32()),
        ("max_relative_error", pa.float64()),  # worst (head, query) of attention recomputed from the file
        ("mean_relative_error", pa.float64()),
        ("layer_relative_error", pa.float64()),  # Frobenius over all compared (head, query) outputs
        ("exact_relative_error", pa.float64()),  # worst with K and V as attention read them: the hook's view
        ("storage_relative_error", pa.float64()),  # worst change of an output by rounding K and V to fp16
        (
            "unexplained_relative_error",
            pa.float64(),
        ),  # worst beyond what rounding in the model's dtype explains
        ("recomputed", pa.int32()),  # (head, query) outputs compared
    ]
)


def kv_schema(head_dim: int, value_dim: int) -> pa.Schema:
    """Columns of `kv.parquet`, sorted by (kv_head, position); no `value` where `value_dim` is 0."""
    wide = [("key", pa.list_(pa.float16(), head_dim)), ("value", pa.list_(pa.float16(), value_dim))]
    heads = [(name, pa.int16()) for name in ("layer", "kv_head")]
    return pa.schema([*heads, ("position", pa.int32()), *wide[: 2 if value_dim else 1]])


def query_schema(head_dim: int, value_dim: int) -> pa.Schema:
    """Columns of `queries.parquet`, sorted by (head, position); no `output` where `value_dim` is 0."""
    wide = [("query", pa.list_(pa.float32(), head_dim)), ("output", pa.list_(pa.float32(), value_dim))]
    heads = [(name, pa.int16()) for name in ("layer", "head", "kv_head")]
    return pa.schema([*heads, ("position", pa.int32()), *wide[: 2 if value_dim else 1]])


@dataclass(frozen=True)
class LayerCapture:
    """One layer of a capture."""

    layer: int
    keys: np.ndarray  # float16 [kv_heads, tokens, head_dim]: post-RoPE keys, as attention used them
    values: np.ndarray | None  # float16 [kv_heads, tokens, value_dim]
    queries: np.ndarray  # float32 [heads, queries, head_dim]: post-RoPE queries at the sampled positions
    # float32 [heads, queries, value_dim]: the model's own attention output of each head, before the output
    # projection.
    outputs: np.ndarray | None
    # int32 [queries]: token index of each query, ascending; the query sees keys 0..position (fewer in a
    # sliding window).
    positions: np.ndarray
    scale: float  # score = scale * (q . k)
    window: int = 0  # sliding window in tokens, 0 for global attention
    softcap: float = 0.0  # logit soft cap, 0 for none
    # int16 [heads]: the model's own numbers of the heads, ascending; from 0 on unless only some of them were captured
    numbers: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.numbers is None:
            object.__setattr__(self, "numbers", np.arange(self.heads, dtype=np.int16))

    @property
    def kv_heads(self) -> int:
        return self.keys.shape[0]

    @property
    def heads(self) -> int:
        return self.queries.shape[0]

    @property
    def group(self) -> int:
        """Query heads that share one KV head."""
        return self.heads // self.kv_heads

    @property
    def tokens(self) -> int:
        return self.keys.shape[1]

    @property
    def kv_numbers(self) -> np.ndarray:
        """Numbers of the KV heads, int16 [kv_heads]. One whose head was captured alone bears the number of that head."""
        return self.numbers[:: self.group] // self.group

    def heads_of(self, kv_head: int) -> np.ndarray:
        """Numbers of the heads that read the `kv_head`-th KV head, int16 [group]."""
        return self.numbers[kv_head * self.group : (kv_head + 1) * self.group]

    def group_queries(self, kv_head: int) -> np.ndarray:
        """Queries of the heads that read the `kv_head`-th KV head, shape [group, queries, head_dim]."""
        return self.queries[kv_head * self.group : (kv_head + 1) * self.group]

    def first_visible(self) -> np.ndarray:
        """First key that each query sees, shape [queries]."""
        if not self.window:
            return np.zeros_like(self.positions)
        return np.maximum(self.positions - self.window + 1, 0)

    def refuse_unfit(self, source: object) -> None:
        """Refuse what attention is not defined on; `source` is what the message names first.

        Raises
        ------
        CaptureError
            An array holds what is not finite, or the scale is 0 or not finite.
        """
        where = f"{source}: layer {self.layer}"
        if not 0 < abs(self.scale) < np.inf or not 0 <= self.softcap < np.inf:
            raise CaptureError(
                f"{where} has scale {self.scale} and softcap {self.softcap}. Accepted: a scale that is not 0 and a softcap of "
                "0 or more, both finite.\n  Write: scale: 0.125, which is 1 / sqrt(head_dim) where that is 64"
            )
        arrays = {"keys": self.keys, "values": self.values, "queries": self.queries, "outputs": self.outputs}
        refuse_unfit(where, arrays, self.positions, {"head": self.numbers, "KV head": self.kv_numbers})

    def at(self, queries: np.ndarray | slice, tokens: int | None = None) -> LayerCapture:
        """Some of the queries (a mask, indices or a slice), with the first `tokens` keys where that is given."""
        keys = slice(tokens)
        return replace(
            self,
            keys=self.keys[:, keys],
            values=None if self.values is None else self.values[:, keys],
            queries=self.queries[:, queries],
            outputs=None if self.outputs is None else self.outputs[:, queries],
            positions=self.positions[queries],
        )


class CaptureWriter:
    """Write a capture layer by layer; the three files appear together when the context closes without an error.

    Keys are `head_dim` wide, values `value_dim`, which is 0 for a capture without values. The metadata is provenance:
    model, weight_sha256, text, text_sha256, package_version, fingerprint.
    """

    def __init__(self, folder: str | Path, head_dim: int, value_dim: int, metadata: Mapping[str, str]):
        self.folder, self.metadata = Path(folder), dict(metadata)
        self._kv = ParquetAppender(self.folder / "kv.parquet", kv_schema(head_dim, value_dim), self.metadata)
        self._queries = ParquetAppender(
            self.folder / "queries.parquet", query_schema(head_dim, value_dim), self.metadata
        )
        self._layers: list[dict] = []

    def __enter__(self) -> CaptureWriter:
        self._stack = ExitStack()
        for appender in (self._kv, self._queries):
            self._stack.enter_context(appender)
        return self

    def append(self, capture: LayerCapture, proof: Mapping[str, float | int]) -> None:
        """Write one layer, with its proof: the error columns of `LAYER_SCHEMA`. Layers come in ascending order."""
        kv_heads, tokens, head_dim = capture.keys.shape
        heads, queries, _ = capture.queries.shape
        kv = {
            "layer": np.full(kv_heads * tokens, capture.layer, np.int16),
            "kv_head": np.repeat(capture.kv_numbers, tokens),
            "position": np.tile(np.arange(tokens, dtype=np.int32), kv_heads),
            "key": fixed_list(capture.keys.reshape(-1, head_dim)),
        }
        rows = {
            "layer": np.full(heads * queries, capture.layer, np.int16),
            "head": np.repeat(capture.numbers, queries),
            "kv_head": np.repeat(np.repeat(capture.kv_numbers, capture.group), queries),
            "position": np.tile(capture.positions.astype(np.int32), heads),
            "query": fixed_list(capture.queries.reshape(-1, head_dim)),
        }
        if capture.values is not None:
            kv["value"] = fixed_list(capture.values.reshape(-1, capture.values.shape[-1]))
            rows["output"] = fixed_list(capture.outputs.reshape(-1, capture.outputs.shape[-1]))
        self._kv.append(kv)
        self._queries.append(rows)
        self._layers.append(_describe(capture) | dict(proof))

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        self._stack.close()
        write_rows(self._layers, self.folder / "layers.parquet", LAYER_SCHEMA, self.metadata)


def _describe(capture: LayerCapture) -> dict:
    return {
        "layer": capture.layer,
        "kind": "sliding" if capture.window else "global",
        "window": capture.window,
        "scale": capture.scale,
        "softcap": capture.softcap,
        "heads": capture.heads,
        "kv_heads": capture.kv_heads,
        "head_dim": capture.keys.shape[2],
        "value_dim": 0 if capture.values is None else capture.values.shape[2],
        "tokens": capture.tokens,
    }


def read_layers_table(folder: str | Path) -> pl.DataFrame:
    """The description and proof of every layer of a capture (columns of `LAYER_SCHEMA`)."""
    return read_table(Path(folder) / "layers.parquet", LAYER_SCHEMA)


def read_layer(folder: str | Path, layer: int) -> LayerCapture:
    """Read one layer of a capture folder, by its index in the model.

    Raises TableError where a file is missing or damaged, or the capture lacks the layer; the message lists the layers
    it has. Raises CaptureError where it holds what is not finite.
    """
    folder = Path(folder)
    layers = SealedParquet(folder / "layers.parquet", LAYER_SCHEMA)
    described = pl.from_arrow(layers.table())
    index = described["layer"].to_list()
    if layer not in index:
        raise TableError(
            f"{folder}: no layer {layer}; the capture has layers {index}. Add it to capture.layers and rerun."
        )
    row = described.row(index.index(layer), named=True)
    heads, kv_heads, widths = row["heads"], row["kv_heads"], (row["head_dim"], row["value_dim"])

    def rows_of(name: str, schema: pa.Schema) -> pa.Table:
        file = SealedParquet(folder / name, schema)
        if file.metadata != layers.metadata or file.footer.num_row_groups != len(index):
            raise damaged(file.path, f"it belongs to another capture than {layers.path}")
        return file.group(index.index(layer))

    kv = rows_of("kv.parquet", kv_schema(*widths))
    queries = rows_of("queries.parquet", query_schema(*widths))

    def unpack(table: pa.Table, name: str, count: int) -> np.ndarray:
        rows = from_fixed_list(table[name])
        return rows.reshape(count, -1, rows.shape[1])

    has_values = row["value_dim"] > 0
    found = LayerCapture(
        layer=layer,
        keys=unpack(kv, "key", kv_heads),
        values=unpack(kv, "value", kv_heads) if has_values else None,
        queries=unpack(queries, "query", heads),
        outputs=unpack(queries, "output", heads) if has_values else None,
        positions=queries["position"].to_numpy()[: queries.num_rows // heads],
        scale=row["scale"],
        window=row["window"],
        softcap=row["softcap"],
        numbers=queries["head"].to_numpy()[:: queries.num_rows // heads],
    )
    found.refuse_unfit(folder)
    return found


def capture_metadata(folder: str | Path) -> dict[str, str]:
    """Provenance of a capture: model, weight and text checksums, package version, fingerprint."""
    return read_metadata(Path(folder) / "layers.parquet")
