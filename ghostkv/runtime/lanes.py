"""Instructions that Numba does not write by itself: sixteen keys in one register, and fields unpacked there.

Sums are of integers, so every machine gives the same ones, whichever instructions it has.
"""

from __future__ import annotations

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 16
_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_WORDS, _BYTES = ir.VectorType(_I32, LANES), ir.VectorType(_I8, 4 * LANES)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
# Rows that are asked for before they are read.
_AHEAD = 8
# Of what a byte holds: fields, as width and mask.
_WIDTHS = (8, 4, 2)


def _splat(builder, value, kind=_WORDS):
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def _constant(value):
    return ir.Constant(_WORDS, [value] * LANES)


def _has_byte_products() -> bool:
    return binding.get_host_cpu_features().get("avx512vnni", False)


def _add_products(builder, total, levels, weights):
    """`total` plus, in each lane, four levels (uint8) times four weights (int8)."""
    if _has_byte_products():
        modern = binding.llvm_version_info[0] >= 22
        kind = ir.FunctionType(_WORDS, [_WORDS, *([_BYTES] * 2 if modern else [_WORDS] * 2)])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpdpbusd.512")
        pair = [levels, _splat(builder, weights)]
        return builder.call(call, [total, *(builder.bitcast(one, _BYTES) for one in pair if modern)]
                            if modern else [total, *pair])  # fmt: skip
    for byte in range(4):
        level = builder.and_(builder.lshr(levels, _constant(8 * byte)), _constant(255))
        weight = builder.ashr(builder.shl(weights, ir.Constant(_I32, 24 - 8 * byte)), ir.Constant(_I32, 24))
        total = builder.add(total, builder.mul(level, _splat(builder, weight)))
    return total


@intrinsic(prefer_literal=True)
def add_block(typingctx, heads, codes, at, weights, first, eights, fours, twos, out, column):
    """Integer scores of 16 keys for `heads` heads (a literal), into ``out[head, column : column + 16]``.

    codes : uint8, flat; from `at` on a block of records, ``[row, key, 4 bytes]``.
    weights : int32, flat; from `first` on, for each field of each row and each head four int8 weights.
    eights, fours, twos : how many rows have fields of 8, 4 and 2 bits; they come in this order.
    out : int32 [any, keys].
    """
    if not isinstance(heads, types.IntegerLiteral):
        return None
    count = heads.literal_value

    def codegen(context, builder, signature, args):
        def data(index):
            return context.make_array(signature.args[index])(context, builder, args[index])

        source = builder.gep(data(1).data, [args[2]])
        weight = builder.gep(data(3).data, [args[4]])
        target = data(8)
        stride = builder.extract_value(target.shape, 1)
        totals = [cgutils.alloca_once(builder, _WORDS) for _ in range(count)]
        for total in totals:
            builder.store(_constant(0), total)
        row = cgutils.alloca_once_value(builder, source)
        place = cgutils.alloca_once_value(builder, weight)
        for width, rows in zip(_WIDTHS, args[5:8], strict=True):
            with cgutils.for_range(builder, rows):
                at_row, at_weight = builder.load(row), builder.load(place)
                levels = builder.load(builder.bitcast(at_row, _WORDS.as_pointer()), align=1)
                sums = [builder.load(total) for total in totals]
                mask = sum(((1 << width) - 1) << 8 * byte for byte in range(4))
                for field in range(8 // width):
                    part = levels
                    if width < 8:
                        shift = 8 - width * (field + 1)
                        part = builder.and_(builder.lshr(levels, _constant(shift)), _constant(mask))
                    for head in range(count):
                        where = builder.gep(at_weight, [ir.Constant(_I64, field * count + head)])
                        sums[head] = _add_products(builder, sums[head], part, builder.load(where))
                for total, value in zip(totals, sums, strict=True):
                    builder.store(value, total)
                builder.store(builder.gep(at_row, [ir.Constant(_I64, 4 * LANES)]), row)
                builder.store(builder.gep(at_weight, [ir.Constant(_I64, 8 // width * count)]), place)
        for head, total in enumerate(totals):
            offset = builder.add(args[9], builder.mul(stride, ir.Constant(_I64, head)))
            where = builder.bitcast(builder.gep(target.data, [offset]), _WORDS.as_pointer())
            builder.store(builder.load(total), where, align=4)
        return context.get_dummy_value()

    kinds = (heads, codes, types.int64, weights, *[types.int64] * 4, out, types.int64)
    return types.void(*kinds), codegen


@intrinsic
def as_float(typingctx, bits):
    """The float32 that an int32's bits are."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def number(typingctx, held):
    """What a cache holds as float32: itself, or a bfloat16 whose bits a uint16 has."""

    def codegen(context, builder, signature, args):
        if signature.args[0] == types.float32:
            return args[0]
        bits = builder.shl(builder.zext(args[0], _I32), ir.Constant(_I32, 16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(held), codegen


def _array(context, builder, signature, args, index):
    return context.make_array(signature.args[index])(context, builder, args[index])


def _vector_at(context, builder, array, kind, *place):
    """16 numbers of a 2-D array from a place on, as float32."""
    stride = builder.extract_value(array.shape, 1)
    at = builder.gep(array.data, [builder.add(builder.mul(place[0], stride), place[1])])
    if kind.dtype == types.float32:
        return builder.load(builder.bitcast(at, _FLOATS.as_pointer()), align=4)
    halves = builder.load(builder.bitcast(at, ir.VectorType(ir.IntType(16), LANES).as_pointer()), align=2)
    return builder.bitcast(builder.shl(builder.zext(halves, _WORDS), _constant(16)), _FLOATS)


def _plus_product(builder, total, one, other):
    # One rounding where the machine can.
    return builder.fadd(total, builder.fmul(one, other, flags=("contract",)), flags=("contract",))


def _prefetch(builder, at):
    kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
    call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(
        call, [builder.bitcast(at, _I8.as_pointer()), *(ir.Constant(_I32, each) for each in (0, 3, 1))]
    )


def _add_up(builder, sums):
    """Sums of the lanes of up to four vectors, as one vector of four."""
    sums = [*sums, *[ir.Constant(_FLOATS, [0.0] * LANES)] * (4 - len(sums))]

    def pick(one, other, lanes):
        return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))

    def quarters(of):
        return [4 * quarter + lane for quarter in range(4) for lane in of]

    pairs = [
        builder.fadd(pick(one, other, quarters([0, 16, 1, 17])), pick(one, other, quarters([2, 18, 3, 19])))
        for one, other in (sums[:2], sums[2:])
    ]
    total = builder.fadd(pick(*pairs, quarters([0, 1, 16, 17])), pick(*pairs, quarters([2, 3, 18, 19])))
    for half in (8, 4):
        total = builder.fadd(
            pick(total, total, list(range(half))), pick(total, total, list(range(half, 2 * half)))
        )
    return total


@intrinsic(prefer_literal=True)
def dot_rows(typingctx, heads, queries, first, rows, index, count, out):
    """Products of some rows with the queries of `heads` heads (a literal) from `first` on; a row is widened once for all.

    queries : float32 [group, width], width a multiple of 16; rows : float32 or uint16 [any, width]; index : int64;
    out : float32 [group, count or more].
    """
    if not isinstance(heads, types.IntegerLiteral):
        return None
    group = heads.literal_value

    def codegen(context, builder, signature, args):
        queries_, rows_, index_, out_ = (_array(context, builder, signature, args, i) for i in (1, 3, 4, 6))
        width, stride = (builder.extract_value(one.shape, 1) for one in (rows_, out_))
        line = ir.Constant(_I64, 64 // (4 if signature.args[3].dtype == types.float32 else 2))
        last = builder.sub(args[5], ir.Constant(_I64, 1))
        with cgutils.for_range(builder, args[5]) as loop:
            ahead = builder.add(loop.index, ir.Constant(_I64, _AHEAD))
            ahead = builder.select(builder.icmp_signed("<", ahead, last), ahead, last)
            start = builder.mul(builder.load(builder.gep(index_.data, [ahead])), width)
            with cgutils.for_range_slice(builder, ir.Constant(_I64, 0), width, line) as (at, _):
                _prefetch(builder, builder.gep(rows_.data, [builder.add(start, at)]))
            row = builder.load(builder.gep(index_.data, [loop.index]))
            sums = [cgutils.alloca_once(builder, _FLOATS) for _ in range(group)]
            for one in sums:
                builder.store(ir.Constant(_FLOATS, [0.0] * LANES), one)
            with cgutils.for_range_slice(builder, ir.Constant(_I64, 0), width, ir.Constant(_I64, LANES)) as (
                at,
                _,
            ):
                part = _vector_at(context, builder, rows_, signature.args[3], row, at)
                for head, one in enumerate(sums):
                    which = builder.add(args[2], ir.Constant(_I64, head))
                    query = _vector_at(context, builder, queries_, signature.args[1], which, at)
                    builder.store(_plus_product(builder, builder.load(one), query, part), one)
            totals = _add_up(builder, [builder.load(one) for one in sums])
            for head in range(group):
                which = builder.mul(builder.add(args[2], ir.Constant(_I64, head)), stride)
                at = builder.gep(out_.data, [builder.add(which, loop.index)])
                builder.store(builder.extract_element(totals, ir.Constant(_I32, head)), at)
        return context.get_dummy_value()

    return types.void(heads, queries, types.int64, rows, index, types.int64, out), codegen


@intrinsic(prefer_literal=True)
def add_rows(typingctx, heads, weights, first, rows, index, count, out):
    """Add weighted rows to the sums of `heads` heads (a literal) from `first` on.

    weights : float32 [group, count or more]; rows : float32 or uint16 [any, width], width a multiple of 16; index :
    int64; out : float32 [group, width].
    """
    if not isinstance(heads, types.IntegerLiteral):
        return None
    group = heads.literal_value

    def codegen(context, builder, signature, args):
        weights_, rows_, index_, out_ = (_array(context, builder, signature, args, i) for i in (1, 3, 4, 6))
        width, stride = (builder.extract_value(one.shape, 1) for one in (rows_, weights_))
        with cgutils.for_range_slice(builder, ir.Constant(_I64, 0), width, ir.Constant(_I64, LANES)) as (
            at,
            _,
        ):
            sums = [cgutils.alloca_once(builder, _FLOATS) for _ in range(group)]
            which = [builder.add(args[2], ir.Constant(_I64, head)) for head in range(group)]
            for one, head in zip(sums, which, strict=True):
                builder.store(_vector_at(context, builder, out_, signature.args[6], head, at), one)
            with cgutils.for_range(builder, args[5]) as loop:
                row = builder.load(builder.gep(index_.data, [loop.index]))
                part = _vector_at(context, builder, rows_, signature.args[3], row, at)
                for one, head in zip(sums, which, strict=True):
                    where = builder.add(builder.mul(head, stride), loop.index)
                    weight = _splat(builder, builder.load(builder.gep(weights_.data, [where])), _FLOATS)
                    builder.store(_plus_product(builder, builder.load(one), weight, part), one)
            for one, head in zip(sums, which, strict=True):
                where = builder.gep(out_.data, [builder.add(builder.mul(head, width), at)])
                builder.store(builder.load(one), builder.bitcast(where, _FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(heads, weights, types.int64, rows, index, types.int64, out), codegen


@intrinsic
def fetch_rows(typingctx, rows, index, count):
    """Ask for the cache lines of some rows, without waiting for them."""

    def codegen(context, builder, signature, args):
        rows_, index_ = (_array(context, builder, signature, args, i) for i in (0, 1))
        width = builder.extract_value(rows_.shape, 1)
        line = ir.Constant(_I64, 64 // (4 if signature.args[0].dtype == types.float32 else 2))
        with cgutils.for_range(builder, args[2]) as loop:
            start = builder.mul(builder.load(builder.gep(index_.data, [loop.index])), width)
            with cgutils.for_range_slice(builder, ir.Constant(_I64, 0), width, line) as (at, _):
                _prefetch(builder, builder.gep(rows_.data, [builder.add(start, at)]))
        return context.get_dummy_value()

    return types.void(rows, index, types.int64), codegen
