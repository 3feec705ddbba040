"""`python -m ghostkv.stages.speed.ways`: three ways to score records of 16 bytes for four heads, timed on records in the cache.

Sums of byte products are what the kernel does. The others are what it was chosen over: levels turned to float32 and
multiplied, and tables of 16 entries a coordinate that are looked up sixty-four keys at a time, as fast scans of product
quantisers do (André et al. 2015; FAISS).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ghostkv.files.compiled import njit
from ghostkv.runtime.fused_sums import FAST
from ghostkv.runtime.lanes import LANES, add_block

KEYS, ROWS, HEADS = 1024, 4, 4
_FIELDS = 8 * ROWS
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_BYTES, _SHORTS = ir.VectorType(ir.IntType(8), 64), ir.VectorType(ir.IntType(16), 32)
_TIMES, _ROUNDS = 100, 50


@intrinsic
def look_up(typingctx, codes, tables, out, key):
    """Sums of table entries of 64 keys for four heads, in 16 bits: even and odd keys apart, as a fast scan leaves them.

    codes : uint8 [fields / 2, keys], two fields of 4 bits a byte; tables : uint8 [fields, heads, 64], 16 entries four times;
    out : uint16 [heads, keys].
    """

    def codegen(context, builder, signature, args):
        codes_, tables_, out_ = (
            context.make_array(signature.args[index])(context, builder, args[index]) for index in range(3)
        )
        kind = ir.FunctionType(_BYTES, [_BYTES, _BYTES])
        shuffle = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.pshuf.b.512")
        keys = builder.extract_value(codes_.shape, 1)
        low = ir.Constant(_BYTES, [15] * 64)
        eight, four = ir.Constant(_SHORTS, [8] * 32), ir.Constant(_SHORTS, [4] * 32)
        totals = [[cgutils.alloca_once(builder, _SHORTS) for _ in range(2)] for _ in range(HEADS)]
        for pair in totals:
            for one in pair:
                builder.store(ir.Constant(_SHORTS, [0] * 32), one)
        with cgutils.for_range(builder, ir.Constant(_I64, _FIELDS // 2)) as loop:
            at = builder.gep(codes_.data, [builder.add(builder.mul(loop.index, keys), args[3])])
            both = builder.load(builder.bitcast(at, _BYTES.as_pointer()), align=1)
            high = builder.bitcast(builder.lshr(builder.bitcast(both, _SHORTS), four), _BYTES)
            for half, levels in enumerate((builder.and_(both, low), builder.and_(high, low))):
                field = builder.add(builder.mul(loop.index, ir.Constant(_I64, 2)), ir.Constant(_I64, half))
                for head, (whole, odd) in enumerate(totals):
                    first = builder.add(builder.mul(field, ir.Constant(_I64, HEADS)), ir.Constant(_I64, head))
                    first = builder.mul(first, ir.Constant(_I64, 64))
                    table = builder.gep(tables_.data, [first])
                    entry = builder.load(builder.bitcast(table, _BYTES.as_pointer()), align=1)
                    found = builder.bitcast(builder.call(shuffle, [entry, levels]), _SHORTS)
                    # The odd bytes' sums, times 256, are taken off the others' at the end.
                    builder.store(builder.add(builder.load(whole), found), whole)
                    builder.store(builder.add(builder.load(odd), builder.lshr(found, eight)), odd)
        for head, (whole, odd) in enumerate(totals):
            row = builder.mul(builder.extract_value(out_.shape, 1), ir.Constant(_I64, head))
            upper = builder.load(odd)
            parts = builder.sub(builder.load(whole), builder.shl(upper, eight)), upper
            for part, value in enumerate(parts):
                offset = builder.add(builder.add(row, args[3]), ir.Constant(_I64, 32 * part))
                where = builder.gep(out_.data, [offset])
                builder.store(value, builder.bitcast(where, _SHORTS.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(codes, tables, out, types.int64), codegen


@njit(error_model="numpy")
def _products(times, codes, weights, out):
    for _ in range(times):
        for block in range(KEYS // LANES):
            add_block(HEADS, codes, block * 64 * ROWS, weights, 0, 0, ROWS, 0, out, block * LANES)


@njit(error_model="numpy")
def _look_ups(times, codes, tables, out):
    for _ in range(times):
        for key in range(0, KEYS, 64):
            look_up(codes, tables, out, key)


@njit(error_model="numpy", fastmath=FAST)
def _floats(times, codes, weights, out):
    for _ in range(times):
        a, b, c, d = out[0], out[1], out[2], out[3]
        out[:] = 0.0
        for f in range(codes.shape[0]):
            row = codes[f]
            w = weights[2 * f : 2 * f + 2]
            for j in range(KEYS):
                low = np.float32(np.int32(row[j] & np.uint8(15)))
                high = np.float32(np.int32(row[j] >> np.uint8(4)))
                a[j] += w[0, 0] * low + w[1, 0] * high
                b[j] += w[0, 1] * low + w[1, 1] * high
                c[j] += w[0, 2] * low + w[1, 2] * high
                d[j] += w[0, 3] * low + w[1, 3] * high


def ways() -> dict[str, Callable[[int], None]]:
    """Functions that score all keys so many times, by what they do; each is checked against integers first.

    Raises
    ------
    AssertionError
        A way gives other scores.
    """
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 16, (_FIELDS, KEYS)).astype(np.uint8)
    weights = rng.integers(-127, 128, (_FIELDS, HEADS)).astype(np.int8)
    want = weights.T.astype(np.int64) @ levels
    pairs = levels[0::2] | (levels[1::2] << 4)
    # As `packed_records` has them: a byte's two fields are unpacked upper first, each of four bytes.
    order = levels.reshape(ROWS, 2, 4, KEYS)
    blocks = (order[:, 0] << 4 | order[:, 1]).reshape(ROWS, 4, KEYS // LANES, LANES).transpose(2, 0, 3, 1)
    packed = np.ascontiguousarray(blocks).reshape(-1)
    words = np.ascontiguousarray(weights.reshape(-1, 4, HEADS).swapaxes(1, 2)).reshape(-1).view(np.int32)
    sums, floats = np.zeros((HEADS, KEYS), np.int32), np.zeros((HEADS, KEYS), np.float32)
    real = weights.astype(np.float32)
    found = {
        "sums of byte products": lambda times: _products(times, packed, words, sums),
        "float32 multiply-add": lambda times: _floats(times, pairs, real, floats),
    }
    checks = {"sums of byte products": sums, "float32 multiply-add": floats}
    if binding.get_host_cpu_features().get("avx512bw", False):
        entries = (np.abs(weights).astype(np.int64)[..., None] * np.arange(16) // 8).astype(np.uint8)
        tables = np.ascontiguousarray(np.tile(entries, 4))
        shorts = np.zeros((HEADS, KEYS), np.uint16)
        found["table look-ups"] = lambda times: _look_ups(times, pairs, tables, shorts)
        found["table look-ups"](1)
        looked = entries[np.arange(_FIELDS)[:, None], :, levels].sum(axis=0).T
        split = looked.reshape(HEADS, -1, 32, 2).swapaxes(2, 3).reshape(HEADS, KEYS)
        assert np.array_equal(shorts, split)
    for name, out in checks.items():
        found[name](1)
        assert np.array_equal(out, want), name
    return found


def main() -> None:
    """Print the time of a key for four heads, in nanoseconds of one thread: the least of many."""
    print("| way | ns a key for 4 heads |\n|:--|--:|")
    for name, way in ways().items():
        times = []
        for _ in range(_ROUNDS):
            before = time.thread_time_ns()
            way(_TIMES)
            times.append((time.thread_time_ns() - before) / (_TIMES * KEYS))
        print(f"| {name} | {min(times):.2f} |", flush=True)


if __name__ == "__main__":
    main()
