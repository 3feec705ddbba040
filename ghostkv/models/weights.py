"""Whether a model holds the weights of its files: each once, none left at random, none cast to what it is not.

transformers initialises a weight at random that the files lack, drops one that it does not know, and takes the last of two
of the same name, each with a warning at most.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostkv.files.errors import ModelError
from ghostkv.sources.model_files import INDEX, weight_map, weight_names

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_PLAIN = ("F16", "BF16", "F32", "F64")
# What older checkpoints carry beside their weights: masks and rotations that the model makes itself.
_CONSTANTS = re.compile(r"attn\.bias$|attention\.bias$|masked_bias$|causal_mask$|position_ids$|inv_freq$")
_SHOWN = 4
_MADE_ANEW = (
    "\n  Fetch config.json and all weights again from one place, or save the model again with transformers: "
    "from_pretrained, then save_pretrained(folder)."
)


def check_files(folder: Path, what: str) -> None:
    """Check a folder's weights against its `config.json` and index, without loading the model.

    The model is built without memory and told which tensors there are; each tensor is read once.

    Raises
    ------
    ModelError
        As `check_loaded`; a tensor that two files hold, or that the index puts elsewhere; one that is no plain number, or
        holds NaN or infinity.
    """
    import torch
    from safetensors import SafetensorError, safe_open
    from transformers import AutoModelForCausalLM

    where, listed = {}, weight_map(folder)
    kinds: dict[str, str] = {}
    for file in weight_names(folder):
        try:
            with safe_open(folder / file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  no mapping
                    if name in where:
                        raise ModelError(f"{what}: {name} is in {where[name]} and in {file}.{_MADE_ANEW}")
                    where[name], kinds[name] = file, tensors.get_slice(name).get_dtype()
                    if kinds[name] in _PLAIN:
                        _refuse_infinite(name, tensors.get_tensor(name), f"{what}: {file}")
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{what}: {file} is no readable safetensors file ({error}).{_MADE_ANEW}"
            ) from error
    if listed and listed != where:
        wrong = sorted(name for name in {*listed, *where} if listed.get(name) != where.get(name))
        raise ModelError(f"{what}: {INDEX} and its files differ about {_some(wrong)}.{_MADE_ANEW}")
    model = checked(
        lambda **options: AutoModelForCausalLM.from_pretrained(folder, **options),
        what,
        where,
        dtype=torch.float32,
        device_map="meta",
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    # transformers casts whatever it finds: an integer of a quantised weight would become a weight.
    whole = {name for name, tensor in model.state_dict().items() if not tensor.is_floating_point()}
    odd = sorted(name for name, kind in kinds.items() if kind not in _PLAIN and not _CONSTANTS.search(name))
    odd = [name for name in odd if name.rpartition(".")[2] not in {one.rpartition(".")[2] for one in whole}]
    if odd:
        raise ModelError(
            f"{what}: {_some(odd)} hold {kinds[odd[0]]}. Accepted: {', '.join(_PLAIN)}.\n  Use the plain weights that these "
            "were quantised from."
        )


def check_values(folder: Path, model: PreTrainedModel, what: str) -> None:
    """Compare a loaded model with its files: an architecture may initialise anew what was loaded, and call it loaded.

    Weights that transformers joins or splits on the way have other names, and are not compared.

    Raises
    ------
    ModelError
        A weight is not what its file holds.
    """
    import torch
    from safetensors import safe_open

    state, wrong = model.state_dict(), []
    for file in weight_names(folder):
        with safe_open(folder / file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  no mapping
                own = next((one for one in (name, *_spellings(name, model)) if one in state), None)
                if own is None or _CONSTANTS.search(name):
                    continue
                there, here = tensors.get_tensor(name), state[own]
                if there.shape == here.shape and not torch.equal(there.to(here.dtype), here):
                    wrong.append(own)
    if wrong:
        raise ModelError(
            f"{what}: transformers does not keep the weights that it loads into {type(model).__name__}: {_some(wrong)} "
            "differ from their file.\n  Use another model, or another version of transformers."
        )


def checked(
    load: Callable[..., Any], what: str, names: Iterable[str] | None = None, **options: Any
) -> PreTrainedModel:
    """The model that `load` gives, once it is known to hold what its files hold.

    Parameters
    ----------
    load : callable
        A `from_pretrained` of transformers, with its files given.
    names : iterable of str, optional
        Tensors of the files.

    Raises
    ------
    ModelError
        transformers cannot load it; names and shapes that do not match; weights that are not finite in the dtype of the model.
    """
    quiet()
    try:
        model, found = load(output_loading_info=True, ignore_mismatched_sizes=True, **options)
    except Exception as error:  # transformers raises a dozen kinds; to the user they are one
        raise ModelError(
            f"{what}: transformers cannot load a causal language model from it ({type(error).__name__}: {error}).{_MADE_ANEW}"
        ) from error
    shapes = sorted(found["mismatched_keys"])
    lacking = set(found["missing_keys"]) - {name for name, *_ in shapes}
    surplus = {name for name in found["unexpected_keys"] if not _CONSTANTS.search(name)}
    if names is not None:
        names = set(names)
        lacking |= _forgiven(model, names)
        surplus |= {name for name in names if len(names & set(_spellings(name, model))) > 1}
    said = [f"missing: {_some(lacking)}"] if lacking else []
    said += [f"not the model's: {_some(surplus)}"] if surplus else []
    said += [f"{name} is {_size(one)}, not {_size(other)}" for name, one, other in shapes[:_SHOWN]]
    said += [str(one) for one in found["error_msgs"][:_SHOWN]]
    if said:
        raise ModelError(
            f"{what}: the weights are not those of the {type(model).__name__} that config.json describes "
            f"({'; '.join(said)}).{_MADE_ANEW}"
        )
    for name, tensor in model.state_dict().items():
        _refuse_infinite(name, tensor, what)
    return model


def check_numbers(shapes: Mapping[str, tuple[int, ...]], model: PreTrainedModel, what: str) -> None:
    """Refuse a GGUF file that holds more than what the model took of it, which transformers drops without a word.

    Every weight of the model is known to be there, so counting is enough: tensors are split and joined on the way.
    """
    held = {name: prod(shape) for name, shape in shapes.items()}
    taken = sum(parameter.numel() for parameter in model.parameters())
    surplus = sum(held.values()) - taken
    # A head beside an embedding that it is tied to holds the same numbers.
    if surplus and not (model.config.tie_word_embeddings and surplus == held.get("output.weight")):
        extra = [name for name in held if not name.startswith(("blk.", "token_embd.", "output"))]
        named = f" ({_some(extra)})" if extra else ""
        raise ModelError(
            f"{what}: the file holds {sum(held.values()):,} numbers, and transformers reads {taken:,} of them{named}, so the "
            "model would compute something else.\n  Use the model's safetensors: model: "
            "{name: mine, custom: {source: hub, id: ...}}"
        )


def quiet() -> None:
    """Keep progress bars out of the logs of rules, and the tokenizer's fork warning with them."""
    import os

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _forgiven(model: PreTrainedModel, names: set[str]) -> set[str]:
    """Parameters that no file holds, which transformers does not call missing."""
    patterns = model._keys_to_ignore_on_load_missing or ()
    tied = getattr(model, "all_tied_weights_keys", {})
    return {
        name
        for name, _ in model.named_parameters()
        if any(re.search(pattern, name) for pattern in patterns)
        and name not in tied
        and not names & set(_spellings(name, model))
    }


def _spellings(name: str, model: PreTrainedModel) -> tuple[str, str]:
    """A tensor's name with and without the prefix that a model with a head puts before those of its trunk."""
    bare = name.removeprefix(f"{model.base_model_prefix}.")
    return bare, f"{model.base_model_prefix}.{bare}"


def _refuse_infinite(name: str, tensor: torch.Tensor, what: str) -> None:
    import torch

    if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel() or _CONSTANTS.search(name):
        return
    # Least and greatest are NaN where anything is; a tenth of the time of torch.isfinite.
    if not all(torch.isfinite(one) for one in torch.aminmax(tensor)):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ModelError(
            f"{what}: {name} holds NaN or infinity in {kind}. Accepted: finite weights.\n  Fetch the model again"
            + (", or write: dtype: float32   (under model)." if kind != "float32" else ".")
        )


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _size(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "one number"
