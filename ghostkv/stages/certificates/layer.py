"""Certificates: what the records of held-out texts prove, layer by layer, verified against exact scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.capture_files import LayerCapture, read_layer
from ghostkv.captures.captured_texts import by_role, from_position, sketch_metadata
from ghostkv.codecs.base import Decoded
from ghostkv.codecs.dithered import Dithered
from ghostkv.codecs.nested import Nested, level_bytes
from ghostkv.codecs.records import load_codecs
from ghostkv.elimination.attention import ColdRange, cap, cold_range, scores
from ghostkv.elimination.bounds import Bounder, CodecBounds, count_violations
from ghostkv.elimination.certificates import STORAGES, certify_mass, certify_topk
from ghostkv.elimination.ledger import Costs
from ghostkv.elimination.nested_bounds import keep_in_full, read_levels
from ghostkv.elimination.powers import Powers
from ghostkv.elimination.randomised import certify_by_chance, far_off, read_dithers
from ghostkv.elimination.truth import Truth, oracle_mass, oracle_topk
from ghostkv.files.blocks import query_blocks
from ghostkv.files.buffers import Space
from ghostkv.files.io import stable_seed
from ghostkv.files.progress import progress
from ghostkv.stages.certificates.bounders import BlockInt8, Clusters, LowBit, PageBoxes
from ghostkv.stages.certificates.findings import Findings, Proved
from ghostkv.stages.certificates.schemas import DITHERED, NESTED
from ghostkv.stages.certificates.tables import CertificateTables

if TYPE_CHECKING:
    from ghostkv.stages.certificates.jobs import CertifyLayer


def certify_layer(job: CertifyLayer, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Certify the eliminations of one layer on held-out texts.

    Raises
    ------
    ConfigError
        A role lacks texts, or no query lies at or beyond `headline_start`.
    """
    by_role(job.captures, "codec", "held_out")
    loaded = {
        text: read_layer(text.folder, job.layer)
        for text in job.captures
        if text.role in ("codec", "held_out")
    }
    calibration = [capture for text, capture in loaded.items() if text.role == "codec"]
    measured = {
        text: from_position(capture, text, job.headline_start)
        for text, capture in loaded.items()
        if text.role == "held_out"
    }
    levels = level_bytes(job.levels, calibration[0].keys.shape[2])
    fitted = load_codecs(inputs["codecs"], job.compared)
    tables, space = CertificateTables(), Space()
    for kv_head in progress(range(calibration[0].kv_heads), desc=f"layer {job.layer}", unit="KV head"):
        keys = np.concatenate([capture.keys[kv_head] for capture in calibration])
        width = keys.shape[1]
        queries = np.concatenate(
            [capture.group_queries(kv_head).reshape(-1, width) for capture in calibration]
        )
        codec = Nested.of(levels).fit(keys, queries)
        dithered = _dithered(job, kv_head, keys, queries)
        others: list[Bounder] = [CodecBounds(fitted[spec, kv_head]) for spec in job.compared]
        others += _peers(job.bounds, keys, stable_seed(job.seed, job.layer, kv_head))
        for text, capture in measured.items():
            number = capture.kv_numbers[kv_head]
            about = {"layer": job.layer, "kv_head": number, "text": text.text, "domain": text.domain}
            found = _certify(capture, kv_head, (codec, dithered), others, job, space)
            found.write(tables, about, capture, job.query_bands)
        print(f"layer {job.layer}: KV head {number} certified, {len(measured)} texts", flush=True)
    tables.write(outputs, sketch_metadata(job.captures, job.code))


def _certify(
    capture: LayerCapture,
    kv_head: int,
    codecs: tuple[Nested, Dithered | None],
    others: Sequence[Bounder],
    job: CertifyLayer,
    space: Space,
) -> Findings:
    """One KV head on one text: its keys are indexed once, and its queries are taken block by block."""
    keys, found, (codec, dithered) = capture.keys[kv_head], Findings(job.compared_every), codecs
    # Decoded once for all blocks of queries: float32 [keys, head_dim] a level.
    levels = list(codec.decode_levels(codec.encode(keys)))
    written = [bounder.write(keys) for bounder in others]
    # The law of the dithered error is that of a linear score.
    by_chance = dithered if dithered is not None and not capture.softcap else None
    read = [by_chance.decode(by_chance.encode(keys), level) for level in (0, 1)] if by_chance else []
    for block in query_blocks(len(capture.positions), capture.group, capture.tokens):
        view = _view(capture.at(block), kv_head, job)
        _cascade(found, view, codec, levels, job, space)
        # Of all queries, whatever the blocks.
        few = view.at(slice(-block.start % job.compared_every, None, job.compared_every))
        if not few.queries.shape[1]:
            continue
        for bounder in written:
            _one_level(found, few, bounder, job, space)
        if by_chance:
            _randomised(found, few, by_chance, read, job)
    return found


@dataclass(frozen=True)
class _View:
    """Some queries of one KV head on one text."""

    capture: LayerCapture
    keys: np.ndarray
    queries: np.ndarray
    truth: Truth

    @property
    def visible(self) -> ColdRange:
        return self.truth.visible

    def at(self, queries: slice) -> _View:
        """Some of them."""
        return replace(self, queries=self.queries[:, queries], truth=self.truth.at(queries))

    @property
    def flat(self) -> np.ndarray:
        """Queries of all heads of the group, shape [group * queries, head_dim]."""
        return self.queries.reshape(-1, self.queries.shape[-1])

    @property
    def norms(self) -> np.ndarray:
        """``||o||``, shape [group, queries]; empty without values."""
        outputs = self.truth.outputs
        return np.linalg.norm(outputs, axis=-1) if outputs.shape[-1] else np.zeros((0, 0))


def _view(capture: LayerCapture, kv_head: int, job: CertifyLayer) -> _View:
    visible = cold_range(capture.positions, capture.first_visible(), job.sinks, job.hot)
    keys, queries = capture.keys[kv_head], np.ascontiguousarray(capture.group_queries(kv_head))
    logits = scores(queries, keys.astype(np.float32), capture.scale, capture.softcap, visible)
    values = None if capture.values is None else capture.values[kv_head]
    truth = Truth.of(queries, keys, logits, values, visible, capture.scale, job.top_k)
    return _View(capture, keys, queries, truth)


def _cascade(
    found: Findings, view: _View, codec: Nested, decoded: Sequence[Decoded], job: CertifyLayer, space: Space
) -> None:
    """Both certificates of the nested record, in both storages."""
    capture, shape = view.capture, view.truth.scores.shape
    levels = len(codec.levels)
    lower, upper = space.of("lower", (levels, *shape)), space.of("upper", (levels, *shape))
    levels_read = read_levels(
        codec,
        decoded,
        view.queries,
        capture.scale,
        capture.softcap,
        (lower, upper),
        space.of("estimates", shape),
    )
    for level, known in enumerate(levels_read):
        escaped = ~np.isfinite(known.radius)
        counted = count_violations(
            view.truth.scores, lower[level], upper[level], view.visible.start, view.visible.stop
        )
        found.add_check(NESTED, level + 1, *counted)
    keep_in_full(lower, upper, view.truth, escaped)
    value_dim = view.truth.values.shape[1]
    width = codec.encoder_.shape[1]
    costs = Costs.of(codec.level_bytes[:-1], codec.level_bytes.sum(), width, value_dim, escaped)
    probes = [job.probes, *[0] * (levels - 2)]
    outcome = certify_topk(lower, upper, view.truth, costs, probes, job.top_k)
    read, key_share = float(codec.level_bytes[:-1].sum()), costs.key / costs.pair
    constants = sum(array.nbytes for array in codec.arrays().values()) / costs.pair
    proved = Proved(NESTED, read, STORAGES, "topk", 0.0, key_share=key_share, constant_keys=constants)
    found.add_outcome(proved, outcome, oracle_topk(view.truth), view.visible, view.norms)
    powers = Powers.of(lower, upper, view.truth, space.of("powers", (2, levels, *shape)))
    for decision in ("head", "group"):
        together = decision == "group"
        oracles = oracle_mass(view.truth, job.deltas, together)
        for delta, oracle in zip(job.deltas, oracles, strict=True):
            outcome = certify_mass(lower, upper, powers, view.truth, costs, job.shares, delta, together)
            proved = replace(proved, certificate="mass", target=delta, decision=decision)
            found.add_outcome(proved, outcome, oracle, view.visible, view.norms)


def _one_level(found: Findings, view: _View, bounder: Bounder, job: CertifyLayer, space: Space) -> None:
    """The same certificates from any single bound, with K in float16 beside its index."""
    shape, truth = view.truth.scores.shape, view.truth
    bounds = bounder.bounds(view.flat, view.capture.scale)
    lower, upper = space.of("lower", (2, *shape)), space.of("upper", (2, *shape))
    lower[0], upper[0] = bounds.lower.reshape(shape), bounds.upper.reshape(shape)
    if view.capture.softcap:
        # float32 tanh is within 8 units of roundoff of a value that is at most the cap.
        slack = np.float32(view.capture.softcap * 2.0**-20)
        lower[0] = cap(lower[0], view.capture.softcap) - slack
        upper[0] = cap(upper[0], view.capture.softcap) + slack
    lower[1], upper[1] = truth.low, truth.high
    counted = count_violations(truth.scores, lower[0], upper[0], view.visible.start, view.visible.stop)
    found.add_check(bounder.name, 1, *counted)
    width = view.keys.shape[1]
    costs = Costs.of([bounder.record_bytes], bounder.record_bytes, width, truth.values.shape[1])
    outcome = certify_topk(lower, upper, truth, costs, [job.probes], job.top_k)
    proved = Proved(bounder.name, bounder.record_bytes, ("additive",), "topk", 0.0)
    found.add_outcome(proved, outcome, oracle_topk(truth), view.visible, view.norms)
    powers = Powers.of(lower, upper, truth, space.of("powers", (2, 2, *shape)))
    delta = job.deltas[0]
    outcome = certify_mass(lower, upper, powers, truth, costs, job.shares[-1:], delta)
    proved = replace(proved, certificate="mass", target=delta)
    found.add_outcome(proved, outcome, oracle_mass(truth, [delta])[0], view.visible, view.norms)


def _dithered(job: CertifyLayer, kv_head: int, keys: np.ndarray, queries: np.ndarray) -> Dithered | None:
    """The record of the randomised certificate, as far as the config wants it."""
    if job.dithered_bits is None:
        return None
    levels = level_bytes([job.dithered_bits], keys.shape[1])
    return Dithered.of(levels, stable_seed(job.seed, "dither", job.layer, kv_head)).fit(keys, queries)


def _randomised(
    found: Findings, view: _View, codec: Dithered, decoded: Sequence[Decoded], job: CertifyLayer
) -> None:
    """The randomised certificate, decided by the group."""
    capture, truth = view.capture, view.truth
    dithers = read_dithers(codec, decoded, view.queries, capture.scale)
    found.add_check(DITHERED, 1, *far_off(dithers, truth, job.failure))
    counted = count_violations(truth.scores, dithers.low, dithers.high, view.visible.start, view.visible.stop)
    found.add_check(DITHERED, 2, *counted)
    record, key = float(codec.level_bytes[0]), codec.level_bytes.sum()
    costs = Costs.of([record], key, codec.encoder_.shape[1], truth.values.shape[1])
    oracles = oracle_mass(truth, job.deltas, together=True)
    for delta, oracle in zip(job.deltas, oracles, strict=True):
        outcome = certify_by_chance(dithers, truth, costs, delta, job.failure, together=True)
        proved = Proved(DITHERED, record, STORAGES, "mass", delta, "group", failure=job.failure)
        found.add_outcome(proved, outcome, oracle, view.visible, view.norms)


def _peers(bounds: Sequence[str], keys: np.ndarray, seed: int) -> list[Bounder]:
    """Bounds that need no codec of the lab, as far as the config names them."""
    known = {
        "low_bit_2": lambda: LowBit(2).fit(keys),
        "low_bit_4": lambda: LowBit(4).fit(keys),
        "block_int8": BlockInt8,
        "page_box": PageBoxes,
        "cluster_ball": lambda: Clusters("ball", seed=seed),
        "cluster_cone": lambda: Clusters("cone", seed=seed),
    }
    return [known[name]() for name in bounds]
