"""Kernels that find the survivors of a decode step: prepare, scan, select, emit. Only this module and `row_kernels` import triton.

A row is a KV head of a sequence. Grids follow from what there is room for, work from the lengths that lie on the device, so that
one captured graph serves every length. Scores are in powers of 2. Programs write what no other one writes: nothing is atomic.

Weights are whole numbers of 7 bits in their places and levels whole numbers, so a score's sum is exact in whatever order the
tensor cores take it. ``unit`` has the 2^24 that levels lack as subnormal float16.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
INFINITE = tl.constexpr(float("inf"))


@triton.jit
def cold_span(start, length, written, sinks, hot):
    """First cold position and the one after the last: what has records, between sinks and hot window."""
    low = tl.minimum(start + sinks, length)
    return low, tl.maximum(tl.minimum(written, length - hot), low)


@triton.jit
def softcapped(score, CAP: tl.constexpr):
    """``CAP * tanh(score / CAP)``, where there is one."""
    if CAP > 0:
        score = CAP - 2 * CAP / (1 + tl.exp2(score * (2 * LOG2E / CAP)))
    return score


@triton.jit
def _rint(x):
    """Rounded to even, below 2^22."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def _level_sums(codes, weights, first, BYTES: tl.constexpr, PARTS: tl.constexpr, KEYS: tl.constexpr):
    """Sums of weights and levels of KEYS keys from `first` on for 8 heads: [KEYS, 8]."""
    WIDTH: tl.constexpr = 8 // PARTS
    key, head = tl.arange(0, KEYS), tl.arange(0, 8)
    sums = tl.zeros([KEYS, 8], tl.float32)
    if BYTES >= 16:
        term = tl.arange(0, BYTES)
        code = tl.load(codes + (first + key)[:, None] * BYTES + term[None, :])
        for part in tl.static_range(PARTS):
            weight = tl.load(weights + (part * BYTES + term[:, None]) * 8 + head[None, :])
            some = code & (((1 << WIDTH) - 1) << (part * WIDTH))
            sums = tl.dot(some.to(tl.uint16).to(tl.float16, bitcast=True), weight, sums)
    else:
        term = tl.arange(0, BYTES * PARTS)
        weight = tl.load(weights + term[:, None] * 8 + head[None, :])
        # Codes of some keys lie in 16 bytes, which one load brings.
        some = tl.arange(0, KEYS * BYTES // 16)
        word = tl.load(codes + first * (BYTES // 4) + some[:, None] * 4 + tl.arange(0, 4)[None, :])
        word = word.reshape(KEYS, BYTES // 4)
        mask = (((1 << WIDTH) - 1) << (tl.arange(0, PARTS) * WIDTH)) * 0x00010001
        odd = word[:, :, None] >> (tl.arange(0, 2) * 8)[None, None, :]
        some = odd[:, :, :, None] & mask[None, None, None, :]
        both = tl.join(some.to(tl.uint16), (some >> 16).to(tl.uint16))
        sums = tl.dot(both.reshape(KEYS, BYTES * PARTS).to(tl.float16, bitcast=True), weight, sums)
    return sums


@triton.jit
def prepare(
    query, keys, offset, decoder, place, middle, start, length, written,
    weights, unit, bias, known, tokens, sinks, hot, scale, kv_heads,
    GROUP: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr, TERMS: tl.constexpr, SLICE: tl.constexpr,
    ROWS: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """Fold a query into weights of a record's terms, and take the exact log-sum-exp of sinks and hot window. Grid: group, rows."""
    head, row = tl.program_id(0), tl.program_id(1)
    kv, batch = row % kv_heads, row // kv_heads
    term = tl.arange(0, TERMS)
    exact = tl.zeros([TERMS], tl.float32)
    query += (row * GROUP + head) * DIM
    for first in tl.range(0, DIM, SLICE):
        d = first + tl.arange(0, SLICE)
        q = tl.load(query + d, mask=d < DIM, other=0.0).to(tl.float32)
        level = tl.load(
            decoder + (kv * TERMS + term[:, None]) * DIM + d[None, :], mask=d[None, :] < DIM, other=0.0
        )
        exact += tl.sum(level * q[None, :], 1)
    d = tl.arange(0, WIDE)
    q = tl.load(query + d, mask=d < DIM, other=0.0).to(tl.float32)
    shift = tl.sum(q * tl.load(offset + kv * DIM + d, mask=d < DIM, other=0.0), 0)
    most = tl.max(tl.abs(exact), 0)
    one = tl.where(most > 0, most / 127, 1.0)
    weight = _rint(exact / one)
    middles = tl.sum(weight * tl.load(middle + kv * TERMS + term), 0)
    weight = weight * tl.load(place + kv * TERMS + term)
    tl.store(weights + (row * TERMS + term) * 8 + head, weight.to(tl.float16))
    tl.store(unit + row * 8 + head, one * scale * (LOG2E * 16777216.0))
    tl.store(bias + row * 8 + head, (shift - one * middles) * scale * LOG2E)

    begin, end = tl.load(start + batch), tl.load(length + batch)
    low, high = cold_span(begin, end, tl.load(written + row), sinks, hot)
    front = low - begin
    peak = tl.full([ROWS], -INFINITE, tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    keys += row.to(tl.int64) * tokens * DIM
    for first in tl.range(0, front + end - high, ROWS):
        n = first + tl.arange(0, ROWS)
        there = n < front + end - high
        at = tl.where(n < front, begin + n, high + n - front)
        k = tl.load(
            keys + at[:, None] * DIM + d[None, :], mask=there[:, None] & (d < DIM)[None, :], other=0.0
        )
        score = softcapped(tl.sum(k.to(tl.float32) * q[None, :], 1) * (scale * LOG2E), CAP)
        # Each lane has a running maximum of its own: lanes meet once, at the end.
        higher = tl.maximum(peak, tl.where(there, score, -INFINITE))
        raised = tl.where(higher > -INFINITE, higher, 0.0)
        mass = mass * tl.exp2(peak - raised) + tl.where(there, tl.exp2(score - raised), 0.0)
        peak = higher
    top = tl.max(peak, 0)
    mass = tl.sum(mass * tl.exp2(peak - tl.where(top > -INFINITE, top, 0.0)), 0)
    tl.store(known + row * 8 + head, top + tl.log2(mass))


@triton.jit
def scan(
    codes, weights, unit, bias, known, start, length, written, lse,
    room, sinks, hot, kv_heads,
    BYTES: tl.constexpr, PARTS: tl.constexpr, KEYS: tl.constexpr, STEPS: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """Log-sum-exp of the estimates of a chunk of cold keys, [rows, chunks, 8]. Grid: chunks, rows.

    Powers are taken off the log-sum-exp of what is known exactly, so that no maximum runs along. Where a head's sum is not finite,
    the chunk is scanned again with its own maximum.
    """
    chunk, row = tl.program_id(0), tl.program_id(1)
    batch = row // kv_heads
    low, high = cold_span(tl.load(start + batch), tl.load(length + batch), tl.load(written + row), sinks, hot)
    begin = chunk * (KEYS * STEPS)
    if (begin + KEYS * STEPS > low) & (begin < high):
        head, key = tl.arange(0, 8), tl.arange(0, KEYS)
        step, base = tl.load(unit + row * 8 + head), tl.load(bias + row * 8 + head)
        shift = tl.load(known + row * 8 + head)
        weights += row * (BYTES * PARTS * 8)
        codes += row.to(tl.int64) * room * (BYTES if BYTES >= 16 else BYTES // 4)
        total = tl.zeros([KEYS, 8], tl.float32)
        last = tl.minimum(begin + KEYS * STEPS, high)
        if (begin >= low) & (begin + KEYS * STEPS == last):
            for at in tl.range(begin, last, KEYS, num_stages=1):
                sums = _level_sums(codes, weights, at, BYTES, PARTS, KEYS)
                if CAP > 0:
                    score = softcapped(sums * step[None, :] + base[None, :], CAP) - shift[None, :]
                else:
                    score = sums * step[None, :] + (base - shift)[None, :]
                total += tl.exp2(score)
        else:
            for at in tl.range(begin, last, KEYS, num_stages=1):
                sums = _level_sums(codes, weights, at, BYTES, PARTS, KEYS)
                score = softcapped(sums * step[None, :] + base[None, :], CAP) - shift[None, :]
                total += tl.where(((at + key >= low) & (at + key < high))[:, None], tl.exp2(score), 0.0)
        mass = tl.sum(total, 0)
        result = shift + tl.log2(mass)
        if tl.max((mass == INFINITE).to(tl.int32), 0) > 0:
            most = tl.full([8], -1e38, tl.float32)
            for at in tl.range(begin, last, KEYS, num_stages=1):
                sums = _level_sums(codes, weights, at, BYTES, PARTS, KEYS)
                score = softcapped(sums * step[None, :] + base[None, :], CAP)
                score = tl.where(((at + key >= low) & (at + key < high))[:, None], score, -INFINITE)
                most = tl.maximum(most, tl.max(score, 0))
            again = tl.zeros([KEYS, 8], tl.float32)
            for at in tl.range(begin, last, KEYS, num_stages=1):
                sums = _level_sums(codes, weights, at, BYTES, PARTS, KEYS)
                score = softcapped(sums * step[None, :] + base[None, :], CAP)
                score = tl.where(((at + key >= low) & (at + key < high))[:, None], score, -INFINITE)
                again += tl.exp2(score - most[None, :])
            result = most + tl.log2(tl.sum(again, 0))
        tl.store(lse + (row * tl.num_programs(0) + chunk) * 8 + head, result)


@triton.jit
def _whole_lse(lse, known, first, last, SOME: tl.constexpr):
    """Log-sum-exp of what is known and of the chunks first..last: [8]."""
    head = tl.arange(0, 8)
    peak, mass = known, tl.full([8], 1.0, tl.float32)
    for some in tl.range(first, last, SOME):
        c = some + tl.arange(0, SOME)
        one = tl.load(lse + c[:, None] * 8 + head[None, :], mask=(c < last)[:, None], other=-INFINITE)
        higher = tl.maximum(peak, tl.max(one, 0))
        raised = tl.where(higher > -INFINITE, higher, 0.0)
        mass = mass * tl.exp2(peak - raised) + tl.sum(tl.exp2(one - raised[None, :]), 0)
        peak = higher
    return peak + tl.log2(mass)


@triton.jit
def select(
    codes, rho, weights, unit, bias, known, lse, theta, start, length, written, flags, counts, left,
    room, sinks, hot, kv_heads,
    GROUP: tl.constexpr, BYTES: tl.constexpr, PARTS: tl.constexpr, KEYS: tl.constexpr, STEPS: tl.constexpr,
    CAP: tl.constexpr,
):  # fmt: skip
    """Which cold keys of a chunk survive: a flag a key, their number, and each head's share of what does not. Grid: chunks, rows."""
    chunk, row = tl.program_id(0), tl.program_id(1)
    batch, chunks = row // kv_heads, tl.num_programs(0)
    low, high = cold_span(tl.load(start + batch), tl.load(length + batch), tl.load(written + row), sinks, hot)
    begin = chunk * (KEYS * STEPS)
    if (begin + KEYS * STEPS > low) & (begin < high):
        head, key = tl.arange(0, 8), tl.arange(0, KEYS)
        step, base = tl.load(unit + row * 8 + head), tl.load(bias + row * 8 + head)
        whole = _whole_lse(
            lse + row * chunks * 8, tl.load(known + row * 8 + head),
            low // (KEYS * STEPS), tl.cdiv(high, KEYS * STEPS), 32,
        )  # fmt: skip
        share = tl.load(theta + (row % kv_heads) * GROUP + head, mask=head < GROUP, other=INFINITE)
        least = share * LOG2E
        weights += row * (BYTES * PARTS * 8)
        codes += row.to(tl.int64) * room * (BYTES if BYTES >= 16 else BYTES // 4)
        rho += row * room
        count = tl.zeros([KEYS], tl.int32)
        shares = tl.zeros([KEYS, 8], tl.float32)
        # Keys beyond the last cold one get a flag too, of 0: `emit` reads whole chunks.
        for first in tl.range(begin, begin + KEYS * STEPS, KEYS, num_stages=1):
            at = first + key
            sums = _level_sums(codes, weights, first, BYTES, PARTS, KEYS)
            if CAP > 0:
                score = softcapped(sums * step[None, :] + base[None, :], CAP) - whole[None, :]
            else:
                score = sums * step[None, :] + (base - whole)[None, :]
            above = tl.max(score - least[None, :], 1)
            cold = (at >= low) & (at < high)
            alive = cold & ((above >= 0) | (tl.load(rho + at) == 255))
            tl.store(flags + row * room + at, alive.to(tl.uint8))
            count += alive.to(tl.int32)
            shares = tl.where((cold & ~alive)[:, None], shares + tl.exp2(score), shares)
        tl.store(counts + row * chunks + chunk, tl.sum(count, 0))
        tl.store(left + (row * chunks + chunk) * 8 + head, tl.sum(shares, 0))


@triton.jit
def emit(
    flags, counts, left, lse, known, value_sum, start, length, written,
    page_table, seqlens, tail_value, tail_lse, traffic, room, tokens, sinks, hot, kv_heads,
    KEYS: tl.constexpr, CHUNKS: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Rows of the cache that are read, in the order of their positions, and what stands for the rest. Grid: chunks, rows.

    The first program of a row also writes sinks and hot window, the number of rows, the tail and the row's traffic.
    """
    chunk, row = tl.program_id(0), tl.program_id(1)
    batch, chunks = row // kv_heads, tl.num_programs(0)
    begin, end = tl.load(start + batch), tl.load(length + batch)
    low, high = cold_span(begin, end, tl.load(written + row), sinks, hot)
    front = low - begin
    first, last = low // KEYS, tl.where(high > low, tl.cdiv(high, KEYS), low // KEYS)
    c = tl.arange(0, CHUNKS)
    there = (c >= first) & (c < last)
    found = tl.load(counts + row * chunks + c, mask=there, other=0)
    page_table += row.to(tl.int64) * tokens
    if (chunk >= first) & (chunk < last):
        at = chunk * KEYS + tl.arange(0, KEYS)
        flag = tl.load(flags + row * room + at).to(tl.int32)
        place = front + tl.sum(tl.where(c < chunk, found, 0), 0) + tl.cumsum(flag, 0) - 1
        tl.store(page_table + place, row * tokens + at, mask=flag > 0)
    if chunk == 0:
        survivors = tl.sum(found, 0)
        exact = front + end - high
        for some in tl.range(0, exact, 128):
            n = some + tl.arange(0, 128)
            at = tl.where(n < front, begin + n, high + n - front)
            place = tl.where(n < front, n, n + survivors)
            tl.store(page_table + place, row * tokens + at, mask=n < exact)
        tl.store(seqlens + row, exact + survivors)
        head = tl.arange(0, 8)
        whole = _whole_lse(lse + row * chunks * 8, tl.load(known + row * 8 + head), first, last, 32)
        shares = tl.load(
            left + (row * chunks + c[:, None]) * 8 + head[None, :], mask=there[:, None], other=0.0
        )
        tl.store(tail_lse + row * 8 + head, whole + tl.log2(tl.sum(shares, 0)))
        d = tl.arange(0, WIDE)
        total = tl.load(value_sum + row * DIM + d, mask=d < DIM, other=0.0)
        tl.store(tail_value + row * DIM + d, total / tl.maximum(high - low, 1), mask=d < DIM)
        column = tl.arange(0, 4)
        seen = tl.where(
            column == 0, 1, tl.where(column == 1, high - low, tl.where(column == 2, survivors, exact))
        )
        counter = traffic + row * 4 + column
        tl.store(counter, tl.load(counter) + seen)
