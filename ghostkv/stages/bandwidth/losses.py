"""What a cache of fewer bits loses of a head's output, alone and with elimination on top of it, on the same queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.capture_files import LayerCapture, read_layer
from ghostkv.codecs import Codec
from ghostkv.codecs.records import load_codecs
from ghostkv.elimination.attention import cap, cold_range, softmax
from ghostkv.elimination.thresholds import kept_or_estimated, reference, statistic
from ghostkv.files.provenance import metadata
from ghostkv.files.tables import write_rows
from ghostkv.quantised.by_name import CACHE_TYPES
from ghostkv.runtime.call_views import CallView
from ghostkv.runtime.combine import combine
from ghostkv.runtime.quantised import WholeCache
from ghostkv.stages.bandwidth.schemas import LOSS_SCHEMA

if TYPE_CHECKING:
    from ghostkv.stages.bandwidth.jobs import CacheLosses

_MEANS = ("share_head", "share_group", "bytes_ratio_gqa", "dropped_mass", "output_error")


def cache_losses(job: CacheLosses, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Bytes and losses of every cache type read whole, and of ghost records over some of them at every theta."""
    rows = []
    for layer, codecs in zip(job.layers, inputs["codecs"], strict=True):
        fitted = load_codecs(codecs, [job.headline])
        for text in (one for one in job.captures if one.role == "held_out"):
            capture = read_layer(text.folder, layer)
            about = {"layer": layer, "text": text.text, "domain": text.domain}
            found: dict[tuple, list[np.ndarray]] = {}
            for head in range(capture.kv_heads):
                view = _view(capture, head, job)
                for key, measured in _measured(view, fitted[job.headline, head], job):
                    found.setdefault(key, []).append(measured)
            for (cache, theta), heads in found.items():
                means = dict(zip(_MEANS, np.mean(heads, axis=0).tolist(), strict=True))
                row = about | {"cache": cache, "theta": theta, "queries": len(view.positions)}
                rows.append(row | means)
        print(f"layer {layer}: {len(rows)} rows so far", flush=True)
    write_rows(rows, outputs["losses"], LOSS_SCHEMA, metadata(job.code))


def _view(capture: LayerCapture, head: int, job: CacheLosses) -> CallView:
    """A KV head and some of the queries that thresholds are judged at, evenly chosen."""
    late = np.flatnonzero(capture.positions >= job.start)
    some = late[np.linspace(0, len(late) - 1, min(job.queries, len(late))).astype(int)]
    positions = capture.positions[some].astype(np.int64)
    return CallView(
        capture.keys[head].astype(np.float32), capture.values[head].astype(np.float32),
        np.ascontiguousarray(capture.group_queries(head)[:, some]), positions,
        cold_range(positions, capture.first_visible()[some], job.sinks, job.hot), capture.scale, capture.softcap,
    )  # fmt: skip


def _measured(view: CallView, codec: Codec, job: CacheLosses) -> Iterator[tuple[tuple, np.ndarray]]:
    """Cache type and theta (None: read whole), and the means of `_MEANS`."""
    mass, _ = softmax(view.scores())
    exact = mass @ view.values.astype(np.float64)
    sizes, visible = (view.keys.shape[1], view.values.shape[1]), view.visible.visible
    pair = CACHE_TYPES["fp16"].pair_bytes(*sizes)

    def error(output: np.ndarray) -> float:
        return float((np.linalg.norm(output - exact, axis=2) / np.linalg.norm(exact, axis=2)).mean())

    held = {
        name: replace(
            view,
            **dict(zip(("keys", "values"), CACHE_TYPES[name].quantise(view.keys, view.values), strict=True)),
        )
        for name in dict.fromkeys((*job.whole, *job.under))
    }
    cold = view.visible.mask(len(view.keys))
    warm = (visible - view.visible.cold) * pair
    for name in job.whole:
        whole = WholeCache(CACHE_TYPES[name])
        ratio = (warm + view.visible.cold * whole.price(view, pair)) / (visible * pair)
        yield (name, None), np.array([1.0, 1.0, ratio.mean(), 0.0, error(whole.output(view, held[name]))])
    for name in job.under:
        read, price = held[name], CACHE_TYPES[name].pair_bytes(*sizes)
        scores = np.where(cold, read.scores(), view.scores())
        compared, estimates = log_mass_over_uniform(read, codec, scores)
        for theta in job.thetas:
            own = (compared >= theta) & cold
            united = own.any(axis=0)
            kept = np.broadcast_to(~cold | united, own.shape)
            found = combine(scores, kept, ~kept, read, estimates)
            # Of sinks and hot window, what the values lost was no loss.
            exact_mass = np.where(cold, np.float32(0.0), softmax(np.where(kept, scores, -np.inf))[0])
            output = found.output + (1 - found.share)[..., None] * (exact_mass @ (view.values - read.values))
            count = np.maximum(view.visible.cold, 1)
            spent = warm + united.sum(axis=1) * price + view.visible.cold * codec.record_bytes
            yield (name, theta), np.array([
                (own.sum(axis=2) / count).mean(), (united.sum(axis=1) / count).mean(), (spent / (visible * pair)).mean(),
                np.where(kept, 0.0, mass).sum(axis=2).mean(), error(output),
            ])  # fmt: skip


def log_mass_over_uniform(view: CallView, codec: Codec, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What policy `ghost` compares with theta, and the estimated scores; float32 of shape [group, queries, tokens]."""
    decoded = codec.decode(codec.encode(view.keys))
    projected = codec.project(view.queries.reshape(-1, view.keys.shape[1]))
    estimates = cap(codec.estimate(projected, decoded, view.scale), view.softcap).reshape(scores.shape)
    origin = reference("relative_lse", kept_or_estimated(estimates, scores, view.visible), view.visible, 1)
    weight = projected.weight(view.scale).reshape(scores.shape[:2])
    found = statistic("relative_lse", estimates, origin, weight, decoded.radius, view.visible)
    return found + np.log(view.visible.visible)[:, None].astype(np.float32), estimates
