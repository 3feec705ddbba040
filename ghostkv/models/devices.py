"""Where a model runs: a device by the name that the config gives it."""

from __future__ import annotations

import torch

from ghostkv.files.errors import ConfigError


def device_of(name: str) -> torch.device:
    """The device of this machine that `model.device` names.

    Parameters
    ----------
    name : str
        `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA where torch finds it, else the CPU.

    Raises
    ------
    ConfigError
        There is no such device here; the message lists those that are.
    """
    found = [
        f"cuda:{number}" for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    ]
    if name == "cpu" or (name == "auto" and not found):
        return torch.device("cpu")
    wanted = "cuda:0" if name in ("auto", "cuda") else name
    if wanted not in found:
        here = ", ".join(["cpu", *map(described, map(torch.device, found))])
        built = torch.version.cuda
        why = (
            ""
            if found
            else f" (torch {torch.__version__}: {f'CUDA {built}' if built else 'built without CUDA'})"
        )
        raise ConfigError(
            f"config: model.device is {name}, which this machine does not have. Accepted: auto, {here}{why}.\n"
            f"  Write: device: {found[0] if found else 'cpu'}   (under model)"
        )
    return torch.device(wanted)


def described(device: torch.device) -> str:
    """A device as messages and metadata name it, such as `cuda:0 (NVIDIA H200)`."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def finish(device: torch.device) -> None:
    """Wait until a device has done what it was given, as a clock must."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
