"""Kernels over whole rows of the cache: records written, survivors attended to, the parts of a softmax merged."""

import triton
import triton.language as tl

from ghostkv.gpu.kernels import INFINITE, LOG2E, _rint, softcapped


@triton.jit
def write_records(
    keys, values, mean, encoder, initial, top, shift, metric, rebuild, rebuilt, slack, start, length,
    codes, rho, value_sum, written, room, tokens, sinks, hot, kv_heads,
    DIM: tl.constexpr, WIDE: tl.constexpr, BYTES: tl.constexpr, PARTS: tl.constexpr, KEYS: tl.constexpr,
    SLICE: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Write the records of keys that have left the hot window. Grid: blocks of KEYS keys, rows.

    A step of decoding has one block a row, which also adds to the sum of V and moves `written` on. What does not fit into it stays
    in the hot window until the next step. Over many blocks the caller does both.

    A residual norm is rounded up by what float32 can miss of it.
    """
    block, row = tl.program_id(0), tl.program_id(1)
    kv, batch = row % kv_heads, row // kv_heads
    begin, end = tl.load(start + batch), tl.load(length + batch)
    last = end - hot
    first = tl.maximum(tl.load(written + row), tl.minimum(begin + sinks, end)) + block * KEYS
    at = first + tl.arange(0, KEYS)
    there = at < last
    TERMS: tl.constexpr = BYTES * PARTS
    term = tl.arange(0, TERMS)
    if first < last:
        keys += row.to(tl.int64) * tokens * DIM
        mean += kv * DIM
        level = tl.zeros([KEYS, TERMS], tl.float32)
        length_squared = tl.zeros([KEYS], tl.float32)
        for some in tl.range(0, WIDE, SLICE):
            d = some + tl.arange(0, SLICE)
            inside = there[:, None] & (d < DIM)[None, :]
            k = tl.load(keys + at[:, None] * DIM + d[None, :], mask=inside, other=0.0).to(tl.float32)
            k = tl.where(inside, k - tl.load(mean + d, mask=d < DIM, other=0.0)[None, :], 0.0)
            axis = tl.load(
                encoder + (kv * TERMS + term[None, :]) * DIM + d[:, None], mask=(d < DIM)[:, None], other=0.0
            )
            level = tl.dot(k, axis, level, input_precision="ieee")
            length_squared += tl.sum(k * k, 1)
        highest = tl.load(top + kv * TERMS + term)
        level = _rint(level + tl.load(initial + kv * TERMS + term)[None, :])
        level = tl.minimum(tl.maximum(level, 0.0), highest[None, :])
        places = level.to(tl.int32) << tl.load(shift + kv * TERMS + term)[None, :]
        code = tl.sum(places.reshape(KEYS, PARTS, BYTES), 1)
        byte = tl.arange(0, BYTES)
        spot = (row.to(tl.int64) * room + at)[:, None] * BYTES + byte[None, :]
        tl.store(codes + spot, code.to(tl.uint8), mask=there[:, None])

        level -= highest[None, :] * 0.5
        residual = tl.zeros([KEYS], tl.float32)
        for out in tl.range(0, WIDE, SLICE):
            o = out + tl.arange(0, SLICE)
            axis = tl.load(
                rebuild + (kv * TERMS + term[:, None]) * DIM + o[None, :], mask=(o < DIM)[None, :], other=0.0
            )
            base = tl.load(rebuilt + kv * DIM + o, mask=o < DIM, other=0.0)
            beside = -base[None, :] - tl.dot(level, axis, input_precision="ieee")
            for some in tl.range(0, WIDE, SLICE):
                d = some + tl.arange(0, SLICE)
                inside = there[:, None] & (d < DIM)[None, :]
                k = tl.load(keys + at[:, None] * DIM + d[None, :], mask=inside, other=0.0).to(tl.float32)
                k = tl.where(inside, k - tl.load(mean + d, mask=d < DIM, other=0.0)[None, :], 0.0)
                square = tl.load(
                    metric + (kv * DIM + o[None, :]) * DIM + d[:, None],
                    mask=(d < DIM)[:, None] & (o < DIM)[None, :],
                    other=0.0,
                )
                beside = tl.dot(k, square, beside, input_precision="ieee")
            residual += tl.sum(beside * beside, 1)
        column = slack + kv * 4
        missed = tl.load(column) * tl.sqrt(length_squared) + tl.load(column + 2)
        missed += tl.load(column + 1) * tl.sqrt(tl.sum(level * level, 1))
        steps = tl.ceil((tl.sqrt(residual) + missed) * tl.load(column + 3))
        norm = tl.where(steps <= 254.0, steps, 255.0).to(tl.uint8)
        tl.store(rho + row.to(tl.int64) * room + at, norm, mask=there)
        if STEP:
            wide = tl.arange(0, WIDE)
            values += row.to(tl.int64) * tokens * DIM
            v = tl.load(
                values + at[:, None] * DIM + wide[None, :],
                mask=there[:, None] & (wide < DIM)[None, :],
                other=0.0,
            )
            total = value_sum + row * DIM + wide
            now = tl.load(total, mask=wide < DIM, other=0.0) + tl.sum(v.to(tl.float32), 0)
            tl.store(total, now, mask=wide < DIM)
            tl.store(written + row, tl.minimum(first + KEYS, last))


@triton.jit
def _product(a, b, sums, EXACT: tl.constexpr):
    """A product on tensor cores, or in float32 where bfloat16 is not computed with."""
    if EXACT:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, sums, input_precision="ieee")


@triton.jit
def attend(
    query, keys, values, page_table, seqlens, part_out, part_lse, tokens, scale,
    GROUP: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, CAP: tl.constexpr,
    STAGES: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Attention of a group over a part of a row's page table. Grid: splits, rows."""
    split, row = tl.program_id(0), tl.program_id(1)
    splits = tl.num_programs(0)
    live = tl.load(seqlens + row)
    each = tl.cdiv(tl.cdiv(live, splits), ROWS) * ROWS
    first, last = split * each, tl.minimum((split + 1) * each, live)
    head, d, n = tl.arange(0, 16), tl.arange(0, WIDE), tl.arange(0, ROWS)
    mine = (head < GROUP)[:, None] & (d < DIM)[None, :]
    q = tl.load(query + (row * GROUP + head[:, None]) * DIM + d[None, :], mask=mine, other=0.0)
    page_table += row.to(tl.int64) * tokens
    peak = tl.full([16], -INFINITE, tl.float32)
    mass = tl.zeros([16], tl.float32)
    out = tl.zeros([16, WIDE], tl.float32)
    for some in tl.range(first, last, ROWS, num_stages=STAGES):
        there = some + n < last
        at = tl.load(page_table + some + n, mask=there, other=0).to(tl.int64)
        inside = there[:, None] & (d < DIM)[None, :]
        k = tl.load(keys + at[:, None] * DIM + d[None, :], mask=inside, other=0.0)
        score = _product(q, tl.trans(k), tl.zeros([16, ROWS], tl.float32), EXACT) * (scale * LOG2E)
        score = tl.where(there[None, :], softcapped(score, CAP), -INFINITE)
        higher = tl.maximum(peak, tl.max(score, 1))
        factor, power = tl.exp2(peak - higher), tl.exp2(score - higher[:, None])
        mass = mass * factor + tl.sum(power, 1)
        v = tl.load(values + at[:, None] * DIM + d[None, :], mask=inside, other=0.0)
        out = _product(power.to(v.dtype), v, out * factor[:, None], EXACT)
        peak = higher
    result = out / tl.where(mass > 0, mass, 1.0)[:, None]
    place = (row * splits + split) * GROUP + head
    tl.store(part_out + place[:, None] * DIM + d[None, :], result, mask=mine)
    tl.store(part_lse + place, peak + tl.log2(mass), mask=head < GROUP)


@triton.jit
def merge(
    part_out, part_lse, tail_value, tail_lse, out, lse,
    GROUP: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr, SPLITS: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Join the parts of a head's softmax and its tail; `lse` is a natural logarithm. Grid: group, rows."""
    head, row = tl.program_id(0), tl.program_id(1)
    d = tl.arange(0, WIDE)
    peak = tl.full([], -INFINITE, tl.float32)
    if TAIL:
        peak = tl.load(tail_lse + row * 8 + head)
    for split in tl.range(0, SPLITS):
        peak = tl.maximum(peak, tl.load(part_lse + (row * SPLITS + split) * GROUP + head))
    raised = tl.where(peak > -INFINITE, peak, 0.0)
    mass = tl.full([], 0.0, tl.float32)
    total = tl.zeros([WIDE], tl.float32)
    if TAIL:
        mass += tl.exp2(tl.load(tail_lse + row * 8 + head) - raised)
        total += mass * tl.load(tail_value + row * DIM + d, mask=d < DIM, other=0.0)
    for split in tl.range(0, SPLITS):
        place = (row * SPLITS + split) * GROUP + head
        weight = tl.exp2(tl.load(part_lse + place) - raised)
        mass += weight
        total += weight * tl.load(part_out + place * DIM + d, mask=d < DIM, other=0.0)
    result = total / tl.where(mass > 0, mass, 1.0)
    place = row * GROUP + head
    tl.store(out + place * DIM + d, result.to(out.dtype.element_ty), mask=d < DIM)
    tl.store(lse + place, (peak + tl.log2(mass)) / LOG2E)
