"""One architecture through the product's own doors: fetch, capture with proof, identity, `generate()`.

What must not happen is found here: a traceback that is not the product's, another number than the model's own.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import yaml
from transformers import AutoModelForCausalLM

from ghostkv.files.errors import GhostKVError
from ghostkv.files.io import write_table
from ghostkv.models.load import load_model, load_tokenizer
from ghostkv.models.tokenizer import save_byte_tokenizer
from ghostkv.runtime.ghost_attention import NAME, register, set_policy
from ghostkv.runtime.measure import measure_identity
from ghostkv.runtime.policy import identity_policy
from ghostkv.stages.capture.jobs import CaptureText
from ghostkv.stages.capture.text import capture_text
from ghostkv.stages.model.fetch import fetch_model
from ghostkv.stages.model.jobs import FetchModel
from ghostkv.stages.run import Run
from tests.survey.tiny import tiny_model

WORKS, REFUSED, NOT_BUILT = "works", "refused", "not built"
# What must not be found.
WRONG, TRACEBACK, CRASH = "WRONG", "TRACEBACK", "CRASH"
TOLERANCE = 1e-4
TOKENS, PROMPT, SAID = 96, 72, 8
ROOT = Path(__file__).parents[2]


@dataclass
class Found:
    """What became of an architecture."""

    architecture: str
    outcome: str = WORKS
    why: str = ""
    layers: str = ""  # whose attention is decided
    blocks: float | None = None  # largest difference of a logit to the model's own
    steps: float | None = None
    own: float | None = None  # between the model's own two ways
    size: float | None = None  # largest logit


def examine(kind: str, folder: Path) -> dict[str, Any]:
    """Build an architecture small and random in `folder`, and send it through the lab."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = Found(kind)
    try:
        source = _built(kind, folder / "source")
    except Exception as error:  # whatever transformers raises about its own classes
        return asdict(Found(kind, NOT_BUILT, _line(error)))
    try:
        _measure(found, source, folder)
    except GhostKVError as error:
        found.outcome, found.why = REFUSED, str(error)
    except _Wrong as error:
        found.outcome, found.why = WRONG, str(error)
    except Exception as error:  # what must not be found
        place = error.__traceback__
        while place.tb_next is not None:
            place = place.tb_next
        where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}"
        found.outcome, found.why = TRACEBACK, f"{where} {_line(error)}"
    return asdict(found)


class _Wrong(Exception):
    pass


def _built(kind: str, folder: Path) -> Path:
    """A model folder, once the model has said something finite from it."""
    tiny_model(kind).save_pretrained(folder)
    save_byte_tokenizer(folder, 512)
    model = AutoModelForCausalLM.from_pretrained(folder)
    logits, _ = _own(model)
    if not torch.isfinite(logits).all():
        raise ValueError("its logits are not finite")
    return folder


def _measure(found: Found, source: Path, folder: Path) -> None:
    own, said = _own(AutoModelForCausalLM.from_pretrained(source))
    found.size = float(own.abs().max())
    run = Run.resolve(_config(source), ROOT / "resources")
    manifest = folder / "resources/models/tiny/manifest.json"
    fetch_model(FetchModel.of(run), {}, {"manifest": str(manifest)})
    found.layers = ", ".join(map(str, run.layers))
    texts = folder / "texts.parquet"
    write_table(_texts(run), texts)
    inputs = {"manifest": str(manifest), "texts": str(texts)}
    capture_text(
        CaptureText.of(run, next(iter(run.texts))), inputs, {"kv": str(folder / "capture/kv.safetensors")}
    )
    load_tokenizer(manifest.parent)
    # A prompt that ends within a sliding window, and one that is longer.
    identity = [
        measure_identity(manifest.parent, _ids()[0].tolist(), context=n, steps=16) for n in (16, PROMPT)
    ]
    found.blocks, found.steps = (
        max(one[f"{way}_difference"] for one in identity) for way in ("block", "step")
    )
    found.own = max(one["own_difference"] for one in identity)
    if max(found.blocks, found.steps) > TOLERANCE:
        raise _Wrong(f"identity: {found.blocks:.1e} in blocks, {found.steps:.1e} in steps")
    register()
    for model in (
        load_model(manifest.parent),
        AutoModelForCausalLM.from_pretrained(manifest.parent, attn_implementation=NAME),
    ):
        model.set_attn_implementation(NAME)
        set_policy(model, identity_policy(model.config))
        logits, spoken = _own(model)
        if (logits - own).abs().max() > TOLERANCE:
            raise _Wrong(f"logits of the prompt differ by {float((logits - own).abs().max()):.1e}")
        if spoken != said:
            raise _Wrong("generate() says something else")


def _own(model: Any) -> tuple[torch.Tensor, list[int]]:
    """Logits of the text, and what follows it."""
    model.eval()
    with torch.inference_mode():
        logits = model(_ids(), use_cache=False).logits
        prompt = _ids()[:, :PROMPT]
        said = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=SAID,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return logits, said[0, PROMPT:].tolist()


def _ids() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(3, 256, TOKENS))[None]


def _texts(run: Run) -> pl.DataFrame:
    """The text of one capture, as the stage `texts` leaves it."""
    name, entry = next(iter(run.texts.items()))
    content = Path(entry["custom"]["path"]).read_text(encoding="utf-8")
    return pl.DataFrame(
        [{"text": name, "domain": entry["domain"], "role": entry["role"], "sha256": "", "content": content}]
    )


def _config(source: Path) -> dict[str, Any]:
    config = yaml.safe_load((ROOT / "tests/config/tiny.yaml").read_text(encoding="utf-8"))
    return config | {"model": {"name": "tiny", "custom": {"source": "path", "path": str(source)}}}


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
