"""Threads of torch for compiled loops: the OpenMP team that its own operations run in.

Between two operations torch's threads stay awake for some milliseconds, each on a core. A thread of another pool would wait for
that core; a call of the same team starts within microseconds. Where no OpenMP of GNU is in the process there is no such team.
"""

from __future__ import annotations

import ctypes
import re
from functools import cache
from pathlib import Path

import torch
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_SYMBOLS = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
_I32, _BYTES = ir.IntType(32), ir.IntType(8).as_pointer()


def torch_threads() -> int:
    """Threads that torch's operations run in."""
    return torch.get_num_threads()


@cache
def team_is_here() -> bool:
    """Whether an OpenMP library of GNU is in this process, as with torch on Linux; its functions are then found by compiled code."""
    maps = Path("/proc/self/maps")
    loaded = re.findall(r"/\S*libgomp[^\s/]*$", maps.read_text(), re.MULTILINE) if maps.exists() else []
    if not loaded:
        return False
    library = ctypes.CDLL(loaded[0])
    for name in _SYMBOLS:
        binding.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
    return True


def _external(module: ir.Module, name: str, kind: ir.FunctionType) -> ir.Function:
    return cgutils.get_or_insert_function(module, kind, name)


@intrinsic
def in_team(typingctx, function, threads, arguments):
    """Call ``function(thread, threads, arguments)`` in each thread of a team of `threads`; the calling thread is the first.

    function : a compiled function that raises nothing and returns nothing.
    arguments : a tuple; what it holds is shared.
    A team may turn out smaller than asked for: the function is told its size.
    """
    asked = types.void(function, types.int64, arguments)
    called = function.get_call_type(typingctx, (types.int64, types.int64, arguments), {})

    def codegen(context, builder, signature, args):
        compiled = function.dispatcher.get_compile_result(called)
        context.add_linking_libs((compiled.library,))
        kind = context.get_value_type(arguments)
        held = cgutils.alloca_once_value(builder, args[2])
        module = builder.module
        each = ir.Function(
            module, ir.FunctionType(ir.VoidType(), [_BYTES]), name=module.get_unique_name("team")
        )
        each.linkage = "internal"
        inside = ir.IRBuilder(each.append_basic_block())
        shared = inside.load(inside.bitcast(each.args[0], kind.as_pointer()))
        place = [
            inside.sext(inside.call(_external(module, name, ir.FunctionType(_I32, [])), []), ir.IntType(64))
            for name in _SYMBOLS[1:]
        ]
        context.call_internal_no_propagate(inside, compiled.fndesc, called, [*place, shared])
        inside.ret_void()
        start = _external(
            module,
            _SYMBOLS[0],
            ir.FunctionType(ir.VoidType(), [each.type, _BYTES, _I32, _I32]),
        )
        count = builder.trunc(args[1], _I32)
        builder.call(start, [each, builder.bitcast(held, _BYTES), count, ir.Constant(_I32, 0)])
        return context.get_dummy_value()

    return asked, codegen
