"""Load a fetched model from a local folder.

torch and transformers take seconds to import, so they are imported inside the functions: a stage that only
names this module stays quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ghostkv.files.errors import ModelError
from ghostkv.models.manifest import verify
from ghostkv.models.weights import checked, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = ("float32", "bfloat16", "float16")


def load_model(
    folder: str | Path, dtype: str = "float32", threads: int = 1, device: str = "cpu"
) -> PreTrainedModel:
    """Load a causal language model for inference.

    Parameters
    ----------
    folder : str or Path
        Local folder with `config.json` and safetensors weights. Nothing is fetched and no remote code is run.
    threads : int
        torch threads of this process, from now on.
    device : str
        Where the weights go, as `model.device` says it.

    Raises
    ------
    ModelError
        The folder, the dtype or the weights are not what transformers can load; a file is not as it was fetched; the
        weights are not those that `config.json` describes, not finite, or more than the device holds.
    ConfigError
        This machine has no such device.
    """
    if dtype not in DTYPES:
        raise ModelError(
            f"config: model.dtype is {dtype!r}. Accepted: {', '.join(DTYPES)}.\n  Write: dtype: float32"
        )
    folder = _existing(folder)
    verify(folder)
    import torch

    from ghostkv.models.devices import described, device_of

    torch.set_num_threads(threads)
    place = device_of(device)
    model = open_model(folder, dtype)
    try:
        return model.to(place)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{folder}: its {model.get_memory_footprint() / 1e9:.3g} GB of weights in {dtype} do not fit the free memory of "
            f"{described(place)}.\n  Write: device: cpu   (under model), or dtype: bfloat16 where that is not what they are"
        ) from error


def open_model(folder: Path, dtype: str = "auto") -> PreTrainedModel:
    """Load a model of any folder, in the dtype of its files where none is named; errors as `load_model`."""
    quiet()
    from transformers import AutoModelForCausalLM

    model = checked(
        lambda **options: AutoModelForCausalLM.from_pretrained(folder, **options),
        str(folder),
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    return model.eval()


def _existing(folder: str | Path) -> Path:
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder}: no config.json there, so it is not a model folder.\n"
            "  Rerun the model rule, or point model.custom.path at a folder with config.json and "
            "safetensors weights"
        )
    return folder
