"""Parts of the benchmark but for the whole model: each yields its results one by one."""

from __future__ import annotations

import platform
from collections.abc import Iterator

import torch

from ghostkv.gpu.bench.clock import Clock
from ghostkv.gpu.bench.dense import dense_ways
from ghostkv.gpu.bench.layers import GeneratedLayer, StepShape, cluster, generated, with_share
from ghostkv.gpu.counters import DeviceTraffic
from ghostkv.gpu.decode import attend_survivors
from ghostkv.gpu.reference import reference_step

SHARES = (0.10, 0.05, 0.20)
# Contexts and batches, those first that say most: a run may be cut short.
CONTEXTS = tuple(
    (1024 * thousands, batch)
    for thousands, batch in (
        (128, 1), (128, 4), (1024, 1), (32, 1), (16, 1), (32, 4), (16, 4), (32, 16), (16, 16), (128, 16), (1024, 4), (1024, 16),
    )
)  # fmt: skip
# Estimates in float32 are this close to those in float64, in nats.
_MARGIN = 1e-4
# Memory that a layer may take of what is free, its caches twice (a library's pages) and records.
_ROOM = 0.9


def versions(device: torch.device) -> dict:
    """What ran and where."""
    import triton

    on_card = device.type == "cuda"
    return {
        "card": torch.cuda.get_device_name(device) if on_card else None,
        "capability": torch.cuda.get_device_capability(device) if on_card else None,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }


def card(clock: Clock) -> Iterator[dict]:
    """Memory, copy bandwidth, and what a launch costs."""
    size = 1 << (16 if clock.interprets else 30)
    source = torch.ones(size, dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    copied = clock.time(lambda: target.copy_(source))
    result = {"what": "copy", "bytes": 2 * size, **copied, "gb_s": _rate(2 * size, copied)}
    if not clock.interprets:
        about = torch.cuda.get_device_properties(clock.device)
        result |= {
            "memory": about.total_memory,
            "processors": about.multi_processor_count,
            "second_cache": about.L2_cache_size,
        }
    yield result
    small = torch.zeros(1, device=clock.device)
    for count in (1, 6):

        def launches(count: int = count) -> None:
            for _ in range(count):
                small.add_(1)

        yield {"what": f"{count} launches in a graph", **clock.time(launches)}
        yield {"what": f"{count} launches", **clock.time(launches, graph=False)}


def gather(clock: Clock) -> Iterator[dict]:
    """Rows of 256 bytes, fetched scattered and in runs by torch and by our kernel over the same page tables."""
    shape = StepShape(1, 200, 1, 2, 64, 8) if clock.interprets else StepShape(4, 1024 * 128)
    layer = generated(shape, clock.device)
    for clustered in (False, True):
        if clustered:
            cluster(layer)
        share = with_share(layer, SHARES[0])
        count = int(layer.workspace.seqlens.sum())
        moved = count * shape.head_dim * 2 * 2
        rows = torch.cat(
            [
                one[:n]
                for one, n in zip(layer.workspace.page_table, layer.workspace.seqlens.tolist(), strict=True)
            ]
        ).long()
        flat = layer.keys.view(-1, shape.head_dim)
        out = torch.empty(count, shape.head_dim, dtype=shape.dtype, device=clock.device)
        spent = clock.time(lambda flat=flat, rows=rows, out=out: torch.index_select(flat, 0, rows, out=out))
        # Read and written.
        yield {
            "what": "index_select",
            "clustered": clustered,
            "share": share,
            **spent,
            "gb_s": _rate(moved, spent),
        }
        spent = clock.time(lambda: _attend(layer))
        yield {"what": "attend", "clustered": clustered, "share": share, **spent, "gb_s": _rate(moved, spent)}


def correctness(clock: Clock) -> Iterator[dict]:
    """Survivors and outputs beside the float64 reference, on this card."""
    shapes = [
        StepShape(2, 3000, 2, group, dim, code_bytes, dtype)
        for group, dim, code_bytes in ((4, 128, 16), (3, 64, 8), (8, 256, 32), (1, 80, 4), (4, 128, 64))
        for dtype in (torch.float16, torch.bfloat16)
    ]
    for number, shape in enumerate([StepShape(1, 150, 1, 2, 64, 8)] if clock.interprets else shapes):
        layer = generated(shape, clock.device, number)
        with_share(layer, 0.2)
        out, lse = layer.step()
        wanted = reference_step(
            layer.query.cpu(), layer.keys.cpu(), layer.values.cpu(), [layer.codec] * shape.kv_heads,
            type(layer.records)(*(one.cpu() for one in layer.records.tensors())),
            type(layer.rule)(**{**vars(layer.rule), "theta": layer.rule.theta.cpu()}), layer.start.cpu(), layer.length.cpu(),
        )  # fmt: skip
        other = close = 0
        table, counts = layer.workspace.page_table.cpu(), layer.workspace.seqlens.tolist()
        low, worst, gap = layer.rule.sinks, 0.0, 0.0
        outs = out.cpu().double().view(len(wanted), shape.group, -1)
        for row, one in enumerate(wanted):
            undecided = low + torch.nonzero(one.above.abs() < _MARGIN).flatten()
            mine = table[row, : counts[row]].long() - row * shape.tokens
            kept = [some[~torch.isin(some, undecided)] for some in (mine, one.read)]
            other += not torch.equal(*kept)
            close += len(undecided)
            worst = max(worst, float(((outs[row] - one.out).norm(dim=1) / one.out.norm(dim=1)).max()))
            gap = max(gap, float((lse.cpu().view(len(wanted), -1)[row].double() - one.lse).abs().max()))
        yield {**described(shape), "rows": len(wanted), "rows_that_differ": other, "keys_too_close": close,
               "output_error": worst, "lse_error": gap}  # fmt: skip


def attention(clock: Clock) -> Iterator[dict]:
    """One layer of Llama-3.1-8B's shape, dense in all ways and under elimination."""
    for tokens, batch in [(160, 1)] if clock.interprets else CONTEXTS:
        shape = StepShape(batch, tokens, 1, 2, 64, 8) if clock.interprets else StepShape(batch, tokens)
        if (
            not clock.interprets
            and 2.2 * shape.cache_bytes > _ROOM * torch.cuda.mem_get_info(clock.device)[0]
        ):
            yield {**described(shape), "skipped": "its caches have no room on this card"}
            continue
        layer = generated(shape, clock.device)
        for clustered in (False, True):
            if clustered:
                cluster(layer)
            # A permutation of keys is nothing to dense attention, but the output is compared with it.
            dense, exact = timed_dense(clock, layer)
            for share in SHARES[:1] if clock.interprets else SHARES:
                if clock.left() < 0:
                    return
                yield {
                    **described(shape),
                    "clustered": clustered,
                    **_ghost(clock, layer, share, exact),
                    **dense,
                }
        del layer
        if not clock.interprets:
            torch.cuda.empty_cache()


def timed_dense(clock: Clock, layer: GeneratedLayer) -> tuple[dict, torch.Tensor]:
    """Times of all dense ways, and an output. A way that fails says why and counts as none."""
    ways, outs = {}, []
    for name, call in dense_ways(layer, clock.interprets).items():
        try:
            outs.append(call())
            off = float((outs[-1].float() - outs[0].float()).norm() / outs[0].float().norm())
            ways[name] = {**clock.time(call), "off_first": off}
        except Exception as error:  # whatever a library of this machine may raise
            ways[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
    right = {
        name: one["least_us"]
        for name, one in ways.items()
        if one.get("off_first", 1.0) < 0.02 and one["least_us"]
    }
    best = min(right, key=right.get) if right else None
    moved = layer.shape.cache_bytes
    rate = _rate(moved, ways[best]) if best else None
    return {"dense": ways, "dense_best": best, "dense_bytes": moved, "dense_gb_s": rate}, outs[0]


def _ghost(clock: Clock, layer: GeneratedLayer, wanted: float, exact: torch.Tensor) -> dict:
    share = with_share(layer, wanted)
    traffic = DeviceTraffic.of(layer.workspace.traffic, layer.records)
    traffic.reset()
    out, _ = layer.step()
    error = (out.float() - exact.float()).norm(dim=-1) / exact.float().norm(dim=-1)
    counted = traffic.summary()
    step = clock.time(layer.step)
    return {
        "share_wanted": wanted, "share": share, "output_error": float(error.mean()), "bytes": counted["bytes"],
        "bytes_ratio": counted["bytes_ratio"], "step": step, "select": clock.time(layer.select),
        "attend": clock.time(lambda: _attend(layer)), "gb_s": _rate(counted["bytes"], step),
    }  # fmt: skip


def _attend(layer: GeneratedLayer) -> None:
    attend_survivors(layer.query, layer.keys, layer.values, layer.frames, layer.rule, layer.workspace)


def described(shape: StepShape) -> dict:
    """A shape in words that JSON has."""
    return {**vars(shape), "dtype": str(shape.dtype).removeprefix("torch.")}


def _rate(moved: int, spent: dict) -> float | None:
    return moved / spent["least_us"] / 1e3 if spent["least_us"] else None
