"""Sizes of blocks, warps and stages: a table by architecture, bytes of code, group and head_dim.

No card has timed these. They are those of which the offline compiler made few instructions and no spill.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ghostkv.gpu.errors import DeviceError
from ghostkv.gpu.layout import CHUNK_KEYS

# Stands for the compute capability where Triton's interpreter runs kernels on the CPU.
INTERPRETER = 0
ARCHITECTURES = (80, 90)
_ANY = range(1, 1 << 20)


@dataclass(frozen=True)
class KernelConfig:
    """How kernels are cut; keys and rows are those of one step of a program."""

    scan_keys: int = 256
    scan_warps: int = 4
    select_keys: int = 512
    select_warps: int = 8
    known_rows: int = 32
    query_slice: int = 32
    attend_rows: int = 64
    attend_warps: int = 4
    attend_stages: int = 2
    write_keys: int = 16
    write_slice: int = 16
    write_warps: int = 8
    # Products in float32: the interpreter multiplies bfloat16 wrongly.
    exact: bool = False


# (architectures, bytes of code, groups, head_dims): the first line that fits counts.
_TABLE = (
    ((INTERPRETER,), _ANY, _ANY, _ANY, KernelConfig(
        scan_keys=CHUNK_KEYS, select_keys=CHUNK_KEYS, known_rows=256, query_slice=256, attend_rows=1024, write_keys=1024,
        write_slice=256, exact=True)),
    ((80, 90), (64,), _ANY, _ANY, KernelConfig(scan_keys=128, select_keys=128, select_warps=4, attend_rows=32)),
    ((80, 90), (4,), _ANY, _ANY, KernelConfig(scan_keys=512, select_warps=4)),
    ((80, 90), _ANY, _ANY, range(129, 257), KernelConfig(attend_rows=32)),
    ((80, 90), _ANY, _ANY, _ANY, KernelConfig()),
)  # fmt: skip


def config_of(architecture: int, code_bytes: int, group: int, head_dim: int) -> KernelConfig:
    """The line of the table for an architecture such as 90, or for the latest one before it."""
    known = [one for one in (INTERPRETER, *ARCHITECTURES) if one <= architecture]
    for architectures, codes, groups, dims, config in _TABLE:
        if known[-1] in architectures and code_bytes in codes and group in groups and head_dim in dims:
            return config
    raise DeviceError(f"kernels: head_dim {head_dim} with a group of {group}. Accepted: head_dim 16 to 256.")


def architecture_of(device: torch.device) -> int:
    """Compute capability of a CUDA device as one number, or `INTERPRETER` for the CPU.

    Raises
    ------
    DeviceError
        The device's float16 tensor cores are not those that kernels are written for.
    """
    if device.type != "cuda":
        return INTERPRETER
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        raise DeviceError(
            f"kernels: {torch.cuda.get_device_name(device)} has compute capability {major}.{minor}. Accepted: 8.0 (A100) and later."
        )
    return 10 * major + minor
