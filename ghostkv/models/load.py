"""Load a fetched model and its tokenizer from a local folder.

torch and transformers take seconds to import, so they are imported inside the functions: a stage that only
names this module stays quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ghostkv.files.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16", "float16")


def load_model(folder: str | Path, dtype: str = "float32", threads: int = 1) -> PreTrainedModel:
    """Load a causal language model for inference.

    Parameters
    ----------
    folder : str or Path
        Local folder with `config.json` and safetensors weights. Nothing is fetched and no remote code is run.
    threads : int
        torch threads of this process, from now on.

    Raises
    ------
    ModelError
        The folder, the dtype or the weights are not what transformers can load.
    """
    if dtype not in DTYPES:
        raise ModelError(
            f"config: model.dtype is {dtype!r}. Accepted: {', '.join(DTYPES)}.\n  Write: dtype: float32"
        )
    folder = _existing(folder)
    _quiet()
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except Exception as error:  # transformers raises a dozen kinds; to the user they are one
        raise ModelError(
            f"{folder}: transformers cannot load a causal language model from it ({type(error).__name__}: "
            f"{error}).\n"
            "  Delete the folder and rerun the model rule, or name another model under model.name"
        ) from error
    return model.eval()


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer beside a model.

    Raises
    ------
    ModelError
        The folder holds no tokenizer.
    """
    folder = _existing(folder)
    _quiet()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"{folder}: no tokenizer can be loaded from it ({type(error).__name__}: {error}).\n"
            "  Delete the folder and rerun the model rule; a local model needs its tokenizer files in the "
            "same folder"
        ) from error


def _existing(folder: str | Path) -> Path:
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder}: no config.json there, so it is not a model folder.\n"
            "  Rerun the model rule, or point model.custom.path at a folder with config.json and "
            "safetensors weights"
        )
    return folder


def _quiet() -> None:
    """Keep progress bars out of the logs of rules, and the tokenizer's fork warning with them."""
    import os

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
