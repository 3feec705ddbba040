"""Kernels in Triton's interpreter, beside the float64 reference and the packed kernel of the CPU.

``python tests/gpu/interpreted.py`` prints one line of JSON, a key for each check. A process interprets or compiles, never both.
"""

from __future__ import annotations

import json
import os
import warnings

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402
from triton.runtime.interpreter import InterpreterOptions, interpreter_builder  # noqa: E402

from ghostkv.gpu import decode, emit  # noqa: E402
from ghostkv.gpu.counters import DeviceTraffic  # noqa: E402
from ghostkv.gpu.layout import DeviceRecords  # noqa: E402
from ghostkv.gpu.reference import fold  # noqa: E402
from ghostkv.runtime.fused_records import RecordFrames  # noqa: E402
from ghostkv.runtime.packed_attention import PackedAttention  # noqa: E402
from ghostkv.runtime.packed_parts import PackedCache, PackedRecords, PackedRule, Place  # noqa: E402
from ghostkv.runtime.packed_records import packed, packed_frames  # noqa: E402
from tests.gpu.layers import compared, drawn, rows_read, worst_errors  # noqa: E402
from tests.gpu.paged import csr_lists, paged_attention, table_lists  # noqa: E402

# Integers wrap as they do on a card; looking for that takes a quarter of the interpreter's time.
interpreter_builder.options = InterpreterOptions(sanitize_overflow=False)
# Estimates in float32 are this close to those in float64, in nats.
MARGIN = 2e-5
# (batch, KV heads, group, head_dim, tokens, bytes of code, type, sinks, hot window, soft cap)
CASES = (
    (20, 2, 1, 64, 300, 16, torch.float16, 4, 64, 0.0),
    (5, 2, 3, 64, 1100, 8, torch.float16, 4, 64, 0.0),
    (10, 2, 2, 128, 700, 16, torch.float16, 5, 31, 0.0),
    (3, 2, 4, 128, 1025, 32, torch.bfloat16, 0, 16, 0.0),
    (8, 1, 1, 256, 1024, 32, torch.bfloat16, 4, 64, 30.0),
    (16, 2, 1, 96, 200, 4, torch.float16, 1, 7, 0.0),
    (4, 1, 8, 64, 600, 16, torch.float16, 4, 64, 0.0),
    (4, 1, 5, 80, 2100, 16, torch.float16, 4, 64, 0.0),
    (20, 2, 1, 64, 500, 64, torch.float16, 3, 0, 0.0),
    (10, 2, 2, 128, 333, 8, torch.bfloat16, 4, 64, 50.0),
    (20, 1, 1, 80, 700, 16, torch.float16, 0, 0, 0.0),
)


def survivors() -> dict:
    """Random rows: what is read, and what is made of it in every third layer."""
    total: dict[str, float] = {}
    for number, (*shape, sinks, hot, softcap) in enumerate(CASES):
        layer = drawn(number, *shape, sinks=sinks, hot=hot, softcap=softcap, compensate=number != 6)
        wanted = layer.reference()
        decode.select_survivors(layer.query, layer.keys, *layer.state)
        for name, value in compared(layer, wanted, MARGIN).items():
            total[name] = total.get(name, 0) + value
        if number % 3 == 0:
            out, lse = decode.attend_survivors(
                layer.query, layer.keys, layer.values, layer.frames, layer.rule, layer.workspace
            )
            kind = str(layer.keys.dtype).removeprefix("torch.")
            for name, value in worst_errors(layer, wanted, out, lse).items():
                total[f"{name}_{kind}"] = max(total.get(f"{name}_{kind}", 0.0), value)
    return total


def edges() -> dict:
    """Rows that have hardly anything: one token, no cold key, no survivor, all survivors, no exact key, infinite sums."""
    result = {}
    few = dict(batch=3, kv_heads=1, group=2, head_dim=64, tokens=200, code_bytes=8)
    kinds = {
        "few_keys": {"start": [0, 199, 130], "length": [1, 200, 199]},
        "no_survivor": {"theta": np.inf},
        "no_survivor_no_tail": {"theta": np.inf, "compensate": False},
        "all_survive": {"theta": -np.inf},
        "nothing_exact": {"theta": -5.0, "sinks": 0, "hot": 0},
        "exact_far_below": {"theta": -5.0, "sinks": 0, "hot": 1},
        "unbounded": {"theta": np.inf},
    }
    for name, options in kinds.items():
        layer = drawn(7, **few, **options)
        if name == "exact_far_below":
            # Scores far above those of the hot window: powers taken off the exact log-sum-exp are infinite.
            for batch, last in enumerate(layer.length.tolist()):
                layer.keys[batch, :, last - 1] = -8 * layer.query[batch, :1]
            layer.query *= 40
        if name == "unbounded":
            layer.records.rho[:] = 0
            layer.records.rho[:, :, ::50] = 255
        wanted = layer.reference()
        out, lse = decode.decode(layer.query, layer.keys, layer.values, *layer.state)
        # Scores of thousands leave float32 fewer places.
        seen = compared(layer, wanted, 1e-2 if name == "exact_far_below" else MARGIN)
        gap = (
            torch.stack([one.lse for one in wanted]).flatten() / np.log(2)
            - layer.workspace.known[:, :2].flatten()
        )
        result[name] = seen | worst_errors(layer, wanted, out, lse) | {"above_known": float(gap.max())}
    return result


def packed_kernel() -> dict:
    """The CPU's packed kernel over the same records, queries and bfloat16 cache."""
    result = {"rows": 0, "unequal": 0, "out": 0.0}
    for number, shape in enumerate(((1, 2, 4, 128, 1400, 16), (1, 3, 3, 64, 900, 8))):
        tokens = shape[4]
        layer = drawn(20 + number, *shape, torch.bfloat16, softcap=20.0 * number, start=[0], length=[tokens])
        out, _ = decode.decode(layer.query, layer.keys, layer.values, *layer.state)
        cache = PackedCache(*(one[0].view(torch.uint16).numpy() for one in (layer.keys, layer.values)))
        records = [
            codec.encode(keys.float().numpy())
            for codec, keys in zip(layer.codecs, layer.keys[0], strict=True)
        ]
        codes, rho = packed(records, shape[5] // 4)
        rule = layer.rule
        attention = PackedAttention(packed_frames(RecordFrames.of(layer.codecs)))
        want, _ = attention.step(
            layer.query[0].float().numpy(), cache,
            PackedRecords(codes, rho, layer.records.value_sum[0].double().numpy()),
            PackedRule(rule.theta.double().numpy(), rule.scale, rule.softcap, rule.compensate),
            Place.of(0, tokens, rule.sinks, rule.hot),
        )  # fmt: skip
        cold = slice(rule.sinks, tokens - rule.hot)
        for kv, found in enumerate(rows_read(layer)):
            mine = found[(found >= cold.start) & (found < cold.stop)]
            result["rows"] += 1
            result["unequal"] += mine.tolist() != attention.survivors(kv).tolist()
        error = np.linalg.norm(out[0].float().numpy() - want, axis=1) / np.linalg.norm(want, axis=1)
        result["out"] = max(result["out"], float(error.max()))
    return result


def weights() -> dict:
    """Weights that `prepare` leaves: whole numbers in the places of their fields, off the exact ones by half a unit at most."""
    layer = drawn(3, 2, 2, 2, 128, 100, 16)
    decode.select_survivors(layer.query, layer.keys, *layer.state)
    room, frames, off, odd = layer.workspace, layer.frames, 0.0, 0
    for row in range(4):
        kv, group = row % 2, layer.query[row // 2].view(2, 2, -1)[row % 2]
        exact, _, _ = fold(group, layer.codecs[kv])
        place = frames.place[kv][:, None].double()
        whole = room.weights[row, :, :2].double() / torch.where(place > 0, place, 1.0)
        odd += int((whole != whole.round()).sum())
        # A field stands in as many terms as it has parts; each has the field's weight.
        for g in range(2):
            nearest = (whole[:, g][place[:, 0] > 0][:, None] - exact[g][None, :]).abs().amin(1)
            off = max(off, float(nearest.max()))
    return {"not_whole": odd, "off": off, "parts": frames.parts}


def writing() -> dict:
    """Records written at once and step by step, beside the codec's own."""
    result = {}
    for name, shape, dtype in (
        ("16", (2, 1, 1, 80, 150, 16), torch.float16),
        ("8", (1, 2, 1, 64, 130, 8), torch.bfloat16),
    ):
        layer = drawn(5, *shape, dtype, length=[shape[4] - 10] * shape[0])
        want = layer.records
        mine = DeviceRecords.empty(shape[0], shape[1], shape[4], shape[5], shape[3])
        part = (layer.keys, layer.values, layer.frames, mine, layer.rule, layer.start)
        decode.write_prompt(*part, layer.length - 40)
        for back in (39, 38, 30, 0, -4):
            decode.write_records(*part, layer.length - back)
        levels = rho = rho_low = value = 0.0
        for b, kv in np.ndindex(*mine.written.shape):
            low, high = int(layer.start[b]) + layer.rule.sinks, int(layer.length[b]) + 4 - layer.rule.hot
            levels += float((mine.codes[b, kv, low:high] != want.codes[b, kv, low:high]).float().sum())
            gap = mine.rho[b, kv, low:high].int() - want.rho[b, kv, low:high].int()
            rho, rho_low = max(rho, float(gap.max())), min(rho_low, float(gap.min()))
            total = layer.values[b, kv, low:high].double().sum(0)
            value = max(value, float((mine.value_sum[b, kv] - total).norm() / total.norm()))
        result[name] = {
            "other_bytes": levels, "rho_above": rho, "rho_below": rho_low, "value_sum": value,
            "behind": int((layer.length[:, None] + 4 - layer.rule.hot - mine.written).abs().max()),
            "beyond": int(mine.codes[:, :, shape[4] - layer.rule.hot :].sum()),
        }  # fmt: skip
    return result


def operator() -> dict:
    """What torch asks of an operator, and one call of it under `torch.compile`."""
    layer = drawn(2, 1, 1, 2, 64, 80, 8, sinks=2, hot=8)
    rule = layer.rule
    args = (
        layer.query, layer.keys, layer.values, layer.frames.of_queries(), layer.records.tensors(), rule.theta,
        layer.start, layer.length, layer.workspace.tensors(), rule.sinks, rule.hot, rule.scale, rule.softcap, rule.compensate,
    )  # fmt: skip
    checks = torch.library.opcheck(decode.decode_op, args, test_utils=("test_schema", "test_faketensor"))
    want, _ = decode.decode(layer.query, layer.keys, layer.values, *layer.state)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def twice(query):
        return 2 * torch.ops.ghostkv.decode(query, *args[1:])[0]

    return {"checks": checks, "compiled": float((twice(layer.query) - 2 * want).abs().max())}


def emission() -> dict:
    """Page tables and CSR lists of a step, read by plain paged attention in torch, with the tail as one more state."""
    layer = drawn(4, 2, 2, 3, 64, 500, 16)
    wanted = layer.reference()
    found = decode.select_survivors(layer.query, layer.keys, *layer.state)
    tail, result = emit.tail_state(found, 3), {}
    for name, lists in (("page_table", table_lists(found)), ("csr", csr_lists(emit.to_csr(found)))):
        state = paged_attention(emit.grouped(layer.query, found), layer.keys, layer.values, lists, layer.rule)
        whole = emit.merge_states(state, tail)
        result[name] = worst_errors(layer, wanted, whole.out, whole.lse)
    out, lse = decode.attend_survivors(
        layer.query, layer.keys, layer.values, layer.frames, layer.rule, layer.workspace
    )
    result["kernel"] = worst_errors(layer, wanted, out, lse)
    return result


def traffic() -> dict:
    """Counters after two steps, beside what the page table says."""
    layer = drawn(9, 2, 1, 2, 64, 400, 16)
    counter = DeviceTraffic.of(layer.workspace.traffic, layer.records)
    for _ in range(2):
        decode.select_survivors(layer.query, layer.keys, *layer.state)
    return counter.summary() | {"read": int(layer.workspace.seqlens.sum())}


CHECKS = (survivors, edges, packed_kernel, weights, writing, operator, emission, traffic)

if __name__ == "__main__":
    import time

    warnings.filterwarnings(
        "ignore", message="(divide by zero|invalid value|overflow)", category=RuntimeWarning
    )
    results = {}
    for check in CHECKS:
        begun = time.process_time()
        results[check.__name__] = check()
        results.setdefault("seconds", {})[check.__name__] = round(time.process_time() - begun, 1)
    print(json.dumps(results))
