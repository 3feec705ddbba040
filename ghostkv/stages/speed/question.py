"""`python -m ghostkv.stages.speed.question RESULTS`: what docs/speed.md asks before anything is built, on finished captures.

What whole fields lose against a stream of bits at equal bytes; how far the log-sum-exp drifts from one step of a decode
to the next; and how many candidates a cheap lower threshold lets through.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ghostkv.captures.capture_files import LayerCapture, read_layer, read_layers_table
from ghostkv.codecs.field_code import field_bits
from ghostkv.codecs.quantiser import UniformQuantiser, measured_distortion, spend_bits
from ghostkv.codecs.whitened import Whitened
from ghostkv.files.errors import GhostKVError
from ghostkv.runtime.packed_scan import CHUNK

BYTES = (4, 8, 16, 32)
LAYOUTS = ("stream", "8/4/2", "8/4/2, int8 queries", "4/2", "4")
TOP_K, FER = 32, 0.01
SINKS, HOT = 4, 64
SLACK = 1.0
THETAS = (-6.0, -8.0, -10.0)
# Queries of a text that are measured, and steps of a trace.
_QUERIES, _STEPS = 24, 128


def frames(captures: Sequence[LayerCapture]) -> Iterator[tuple[Whitened, np.ndarray, np.ndarray]]:
    """The query-aware frame of each KV head, its calibration coordinates and their distortion."""
    for kv in range(captures[0].kv_heads):
        keys = np.concatenate([one.keys[kv] for one in captures]).astype(np.float64)
        queries = np.concatenate([one.group_queries(kv).reshape(-1, keys.shape[1]) for one in captures])
        frame = Whitened(0)
        frame.fit_frame(keys, queries.astype(np.float64))
        coordinates = (keys - frame.mean_) @ frame.encoder_.T
        yield frame, coordinates, measured_distortion(coordinates)


def quantiser_of(layout: str, coordinates: np.ndarray, distortion: np.ndarray, size: int) -> UniformQuantiser:
    """Levels of each coordinate under a layout, all at the same bytes."""
    if layout == "stream":
        bits = spend_bits(distortion, 8 * size)
    else:
        bits = field_bits(distortion, size, tuple(int(one) for one in layout.split(",")[0].split("/")))
    return UniformQuantiser.fit(coordinates, bits)


def estimates(
    queries: np.ndarray, frame: Whitened, quantiser: UniformQuantiser, levels: np.ndarray, in_bytes: bool
) -> np.ndarray:
    """Scores seen from levels [keys, dims] without the model's scale, float64 [queries, keys]; `in_bytes` rounds weights to
    int8, one unit a query."""
    written = quantiser.bits > 0
    weights = (queries @ frame.decoder_) * quantiser.step * written
    offset = queries @ (frame.mean_ + frame.decoder_ @ np.where(written, quantiser.centre, 0.0))
    if in_bytes:
        unit = np.abs(weights).max(axis=1, keepdims=True) / 127
        weights = np.rint(weights / unit) * unit
    middle = ((1 << quantiser.bits) - 1) / 2
    return offset[:, None] + weights @ (levels - middle).T


def layout_losses(calibration: Sequence[LayerCapture], measured: Sequence[LayerCapture]) -> dict:
    """Score error and elimination at the FER target, by (layout, bytes): means over heads and texts."""
    found: dict = {}
    for kv, (frame, coordinates, distortion) in enumerate(frames(calibration)):
        views = [_view(capture, kv, frame) for capture in measured]
        for layout in LAYOUTS:
            for size in BYTES:
                quantiser = quantiser_of(layout, coordinates, distortion, size)
                for queries, own, exact, cold, scale in views:
                    seen = (
                        estimates(queries, frame, quantiser, quantiser.quantise(own), "int8" in layout)
                        * scale
                    )
                    found.setdefault((layout, size), []).append(_loss(exact, seen, cold))
    return {key: np.mean(values, axis=0) for key, values in found.items()}


def _view(capture: LayerCapture, kv: int, frame: Whitened):
    """Queries of a group, coordinates of its keys, exact scores, and which keys are cold for each query."""
    chosen = np.linspace(len(capture.positions) // 2, len(capture.positions) - 1, _QUERIES).astype(int)
    queries = capture.group_queries(kv)[:, chosen].astype(np.float64)
    position = np.tile(capture.positions[chosen], len(queries))
    queries = queries.reshape(-1, queries.shape[2])
    keys = capture.keys[kv].astype(np.float64)
    at = np.arange(len(keys))
    cold = (at >= SINKS) & (at <= position[:, None] - HOT)
    return (
        queries,
        (keys - frame.mean_) @ frame.encoder_.T,
        queries @ keys.T * capture.scale,
        cold,
        capture.scale,
    )


def _loss(exact: np.ndarray, seen: np.ndarray, cold: np.ndarray) -> tuple[float, float]:
    """Root mean square error of cold scores beyond a query's mean error, and elimination at the FER target."""
    error = np.where(cold, seen - exact, np.nan)
    error -= np.nanmean(error, axis=1, keepdims=True)
    hidden = np.where(cold, seen, -np.inf)
    statistic = hidden - np.partition(hidden, -TOP_K, axis=1)[:, -TOP_K, None]
    wanted = np.where(cold, exact, -np.inf)
    top = wanted >= np.partition(wanted, -TOP_K, axis=1)[:, -TOP_K, None]
    theta = np.quantile(statistic[top], FER)
    return float(np.sqrt(np.nanmean(error**2))), float((statistic[cold] < theta).mean())


def drift(trace: LayerCapture, calibration: Sequence[LayerCapture], size: int = 8) -> tuple[np.ndarray, dict]:
    """Changes of the exact log-sum-exp from a step to the next, flat; and by theta the survivors' share of the cold keys,
    candidates a survivor of each cheap threshold, and the share of steps that the guess would have to repeat."""
    changes, counts = [], {theta: np.zeros(6) for theta in THETAS}
    chosen = np.linspace(1, len(trace.positions) - 1, _STEPS).astype(int)
    position = trace.positions[chosen]
    at = np.arange(trace.tokens)
    for kv, (frame, coordinates, distortion) in enumerate(frames(calibration)):
        keys = trace.keys[kv].astype(np.float64)
        quantiser = quantiser_of("8/4/2", coordinates, distortion, size)
        levels = quantiser.quantise((keys - frame.mean_) @ frame.encoder_.T)
        for queries in trace.group_queries(kv).astype(np.float64):
            # Exact scores of what each step sees, of the step before and the step itself.
            scores_of = [
                np.where(
                    at <= trace.positions[steps][:, None], queries[steps] @ keys.T * trace.scale, -np.inf
                )
                for steps in (chosen - 1, chosen)
            ]
            changes.append(np.subtract(*[np.logaddexp.reduce(one, axis=1) for one in scores_of[::-1]]))
            seen = estimates(queries[chosen], frame, quantiser, levels, True) * trace.scale
            cold = (at >= SINKS) & (at <= position[:, None] - HOT)
            known = np.logaddexp.reduce(np.where(cold, -np.inf, scores_of[1]), axis=1)
            before = estimates(queries[chosen - 1], frame, quantiser, levels, True) * trace.scale
            last = np.logaddexp.reduce(np.where(cold, before, scores_of[0]), axis=1)
            hidden = np.where(cold, seen, -np.inf)
            so_far = np.stack(
                [
                    np.logaddexp.reduce(hidden[:, : end + CHUNK], axis=1)
                    for end in range(0, trace.tokens, CHUNK)
                ]
            )
            running = np.repeat(np.logaddexp(so_far, known), CHUNK, axis=0)[: trace.tokens].T
            full = running[:, -1]
            for theta, sums in counts.items():
                least = full + theta
                sums += [
                    cold.sum(),
                    (hidden >= least[:, None]).sum(),
                    (hidden >= known[:, None] + theta).sum(),
                    (hidden >= (last - SLACK + theta)[:, None]).sum(),
                    (hidden >= running + theta).sum(),
                    (last - SLACK > full).mean() / trace.heads,
                ]
    return np.concatenate(changes), counts


def main(arguments: list[str] | None = None) -> None:
    """Print the tables of docs/speed.md."""
    parser = argparse.ArgumentParser(
        prog="python -m ghostkv.stages.speed.question", description=__doc__.splitlines()[0]
    )
    parser.add_argument("results", type=Path, help="results of a finished run")
    parser.add_argument("--layers", type=int, nargs="*", help="layers; all without it")
    chosen = parser.parse_args(arguments)
    try:
        _print_tables(chosen.results, chosen.layers)
    except GhostKVError as error:
        parser.error(str(error))


def _print_tables(results: Path, layers: Sequence[int] | None) -> None:
    folders = {role: sorted(results.glob(f"capture/*_{role}_*")) for role in ("codec", "held_out")}
    layers = layers or read_layers_table(folders["codec"][0])["layer"].to_list()

    def captures(role: str, layer: int) -> list[LayerCapture]:
        return [read_layer(folder, layer) for folder in folders[role]]

    print("Score error in nats, and elimination at an FER of 1 %, by layout and bytes of code\n")
    print(f"| layer | {' | '.join(f'{layout}, {size} B' for size in BYTES for layout in LAYOUTS)} |")
    print("|--:" * (1 + len(BYTES) * len(LAYOUTS)) + "|")
    every = []
    for layer in layers:
        losses = layout_losses(captures("codec", layer), captures("held_out", layer))
        row = [losses[layout, size] for size in BYTES for layout in LAYOUTS]
        every.append(row)
        print(f"| {layer} | {' | '.join(f'{error:.2f}, {gone:.1%}' for error, gone in row)} |", flush=True)
    mean = np.mean(every, axis=0)
    print(f"| mean | {' | '.join(f'{error:.3f}, {gone:.2%}' for error, gone in mean)} |\n")
    some = layers[:: max(1, len(layers) // 6)]
    _print_drift(
        {layer: drift(read_layer(results / "trace", layer), captures("codec", layer)) for layer in some}
    )


def _print_drift(found: Mapping[int, tuple[np.ndarray, dict]]) -> None:
    print("Change of the log-sum-exp from a step to the next, in nats: quantiles of its size\n")
    print("| layer | 50 % | 90 % | 99 % | largest |\n|--:|--:|--:|--:|--:|")
    moves = {str(layer): moved for layer, (moved, _) in found.items()}
    for layer, moved in (moves | {"all": np.concatenate(list(moves.values()))}).items():
        quantiles = np.quantile(np.abs(moved), [0.5, 0.9, 0.99, 1.0])
        print(f"| {layer} | {' | '.join(f'{one:.2f}' for one in quantiles)} |")
    print(
        f"\nCandidates a survivor of each threshold, 8 bytes of code; steps that a guess {SLACK:g} nat below the last repeats\n"
    )
    print(
        "| theta | survivors of a head | sinks and hot | last step | all so far | repeated |\n"
        + "|--:" * 6
        + "|"
    )
    for theta in THETAS:
        cold, kept, known, last, running, repeated = sum(counts[theta] for _, counts in found.values())
        ratios = " | ".join(f"{one / kept:.2f}" for one in (known, last, running))
        print(f"| {theta:g} | {kept / cold:.2%} | {ratios} | {repeated / len(found):.1%} |")


if __name__ == "__main__":
    main()
