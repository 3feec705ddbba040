"""Compile kernels for cards that are not there, as `launches` would launch them, and read what the compiler made of them.

``python tests/gpu/offline.py --all`` prints one line of JSON for each kernel and shape: registers, bytes that spilled, and of the loop over
codes the widest load and the instructions a key. It runs in a process of its own, one that does not interpret.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ghostkv.gpu import kernels, launches, row_kernels
from ghostkv.gpu.configs import ARCHITECTURES
from ghostkv.gpu.layout import DeviceFrames, DeviceRecords
from ghostkv.gpu.workspace import DecodeWorkspace

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
TYPES = {
    torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.uint8: "*u8", torch.int32: "*i32",
    torch.int64: "*i64",
}  # fmt: skip
# (bytes of code, parts, group, head_dim, type, soft cap): what kernels depend on. The first ones have every line of the table.
SHAPES = (
    (16, 4, 4, 128, torch.float16, 0.0),
    (8, 4, 3, 64, torch.float16, 0.0),
    (4, 4, 6, 80, torch.float16, 0.0),
    (32, 4, 4, 256, torch.bfloat16, 50.0),
    (64, 4, 1, 256, torch.float16, 0.0),
    (16, 2, 8, 128, torch.bfloat16, 0.0),
    (16, 4, 3, 64, torch.float16, 0.0),
    (16, 4, 4, 128, torch.float16, 30.0),
    (32, 2, 4, 128, torch.bfloat16, 0.0),
)
# What the tests compile: all kernels of the first shape, of some others those that their line of the table cuts in another way.
TESTED = {
    0: None,
    1: {"scan", "select"},
    2: {"scan", "select"},
    3: {"attend", "write_records"},
    4: {"scan", "select", "write_records"},
}


class Recorder:
    """Stands for a module of kernels and keeps what is launched instead of launching it."""

    def __init__(self, module, calls: list):
        self.module, self.calls = module, calls

    def __getattr__(self, name: str):
        kernel = getattr(self.module, name)
        return _Launcher(lambda *args, **options: self.calls.append((kernel, args, options)))


class _Launcher:
    def __init__(self, launch):
        self.launch = launch

    def __getitem__(self, grid):
        return self.launch


def launched(architecture: int, shape: tuple) -> list:
    """Kernels of a step with their arguments."""
    code_bytes, parts, group, dim, dtype, cap = shape
    terms, calls = code_bytes * parts, []
    launches.kernels = lambda: (Recorder(kernels, calls), Recorder(row_kernels, calls))
    launches.architecture_of = lambda device: architecture
    # Nothing is computed: tensors of the right types and sizes suffice. Sizes are such as real caches have, divisible by 16.
    with torch.device("meta"):
        f = torch.float32
        frames = DeviceFrames(
            code_bytes, parts, *(torch.empty(16, terms, dim, dtype=f) for _ in range(8)),
            torch.empty(16, terms, dtype=torch.int32), *(torch.empty(16, terms, dim, dtype=f) for _ in range(4)),
        )  # fmt: skip
        keys = torch.empty(2, 16, 4096, dim, dtype=dtype)
        query = torch.empty(2, 16 * group, dim, dtype=dtype)
        lengths = torch.empty(2, dtype=torch.int32)
        theta = torch.empty(16 * group)
        records = DeviceRecords.empty(2, 16, 4096, code_bytes, dim, device="meta")
    workspace = DecodeWorkspace.of(frames, records, 16 * group, 4096)
    step = launches.Step.of(16 * group, keys, code_bytes)
    launches.write(step, keys, keys, frames, records, 4, 64, lengths, lengths, 1, True)
    launches.find(
        step, query, keys, frames.of_queries(), records.tensors(), theta, lengths, lengths, 4, 64, 0.1, cap, workspace
    )  # fmt: skip
    launches.attend(step, query, keys, keys, 0.1, cap, True, workspace)
    return calls


def compiled(kernel, args: tuple, options: dict, architecture: int):
    """A kernel's binary for an architecture."""
    options = dict(options)
    build = {name: options.pop(name) for name in ("num_warps",) if name in options}
    values = dict(zip(kernel.arg_names, args, strict=False)) | options
    signature, attrs = {}, {}
    for number, name in enumerate(kernel.arg_names):
        value = values[name]
        if name in options:
            signature[name] = "constexpr"
        elif isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            attrs[(number,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, int) and value % 16 == 0:
                attrs[(number,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, options, attrs)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=build)


def read(binary: bytes) -> tuple[dict, list[tuple[int, str]]]:
    """Resources of a binary, and its instructions by address."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run(
            [TOOLS / "cuobjdump", "-sass", "-res-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    used = dict(re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", text))
    found = re.findall(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?);", text, re.MULTILINE)
    return {name: int(value) for name, value in used.items()}, [(int(at, 16), one) for at, one in found]


def loops(instructions: list[tuple[int, str]]) -> list[list[str]]:
    """Bodies of loops: what lies between a branch backwards and its target."""
    bodies = []
    for at, one in instructions:
        target = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", one)
        if target and int(target[1], 16) < at:
            bodies.append([text for place, text in instructions if int(target[1], 16) <= place <= at])
    return bodies


def report(architecture: int, shape: tuple, wanted: set[str] | None = None) -> list[dict]:
    """A line for each kernel of a step, or for those that are wanted."""
    lines = []
    for kernel, args, options in launched(architecture, shape):
        if wanted and kernel.__name__ not in wanted:
            continue
        binary = compiled(kernel, args, options, architecture)
        used, instructions = read(binary.asm["cubin"])
        text = " ".join(one for _, one in instructions)
        line = {
            "kernel": kernel.__name__, "architecture": architecture, "code_bytes": shape[0], "parts": shape[1], "group": shape[2],
            "head_dim": shape[3], "type": str(shape[4]).removeprefix("torch."), "softcap": shape[5],
            "warps": options.get("num_warps", 4), "registers": used["REG"], "shared": binary.metadata.shared,
            "stack": used["STACK"], "spilled": len(re.findall(r"\b(?:STL|LDL)\b", text)),
            "loads": sorted(set(re.findall(r"\b(?:LDG|LDGSTS)\.[\w.]+", text))),
        }  # fmt: skip
        if kernel.__name__ in ("scan", "select"):
            # The loop without masks is the shortest of those that multiply and raise.
            body = min(
                (
                    one
                    for one in loops(instructions)
                    if "HMMA" in " ".join(one) and "MUFU.EX2" in " ".join(one)
                ),
                key=len,
            )
            line["instructions_a_key"] = len(body) * 32 * line["warps"] / options["KEYS"]
            line["loop_loads"] = sorted(set(re.findall(r"\b(?:LDG|LDGSTS)\.[\w.]+", " ".join(body))))
        lines.append(line)
    return lines


if __name__ == "__main__":
    tried = dict.fromkeys(range(len(SHAPES))) if "--all" in sys.argv else TESTED
    for architecture in ARCHITECTURES:
        for number, wanted in tried.items():
            for line in report(architecture, SHAPES[number], wanted):
                print(json.dumps(line), flush=True)
