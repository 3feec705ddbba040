"""One architecture through the lab's own doors: fetch, capture with proof, identity, `generate()`, refusal.

What must not happen is found here: a traceback that is not the lab's, or another answer than the model's own.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import AutoModelForCausalLM, PreTrainedModel

from ghostkv.files.errors import CaptureError, ConfigError, GhostKVError, ModelError
from ghostkv.files.tables import write_rows
from ghostkv.models.load import load_model
from ghostkv.models.tokenizer import save_byte_tokenizer
from ghostkv.runtime.ghost_attention import NAME, register, set_policy
from ghostkv.runtime.measure import IDENTITY, check_identity, measure_identity
from ghostkv.runtime.policy import identity_policy
from ghostkv.sources.texts import TEXT_SCHEMA
from ghostkv.stages.capture.jobs import CaptureText
from ghostkv.stages.capture.text import capture_text
from ghostkv.stages.model.fetch import fetch_model
from ghostkv.stages.model.jobs import FetchModel
from ghostkv.stages.run import Run
from tests.survey.tiny import tiny_model

WORKS, REFUSED, NOT_BUILT = "works", "refused", "not built"
# What must not be found.
WRONG, TRACEBACK, CRASH = "WRONG", "TRACEBACK", "CRASH"
TOKENS, SAID = 96, 8
# A prompt that ends within a sliding window of 24 tokens, and one that is longer.
PROMPTS = (16, 72)
ROOT = Path(__file__).parents[2]


@dataclass
class Found:
    """What became of an architecture."""

    architecture: str
    outcome: str = WORKS
    why: str = ""
    # Largest difference of a logit to the model's own, over the largest logit (over 1 where that is less).
    blocks: float | None = None
    steps: float | None = None
    stage: str = "build"  # where the lab refused


def examine(kind: str, folder: Path) -> dict[str, Any]:
    """Build an architecture small and random in `folder`, and send it through the lab."""
    warnings.simplefilter("ignore")
    found = Found(kind)
    try:
        source = _built(kind, folder / "source")
    except Exception as error:  # whatever transformers raises about its own classes
        return asdict(Found(kind, NOT_BUILT, _line(error)))
    try:
        try:
            _measure(found, source, folder)
        except (ConfigError, ModelError, CaptureError) as error:
            found.outcome, found.why = REFUSED, str(error).replace(str(folder), "...")
            if found.stage != "identity":
                _refused_everywhere(source)
    except _Wrong as error:
        found.outcome, found.why = WRONG, f"{error}; {found.why}"
    except Exception as error:  # what must not be found
        place = error.__traceback__
        while place.tb_next is not None:
            place = place.tb_next
        where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}"
        found.outcome, found.why = TRACEBACK, f"{where} {_line(error)}; {found.why}"
    return asdict(found)


class _Wrong(Exception):
    pass


def _built(kind: str, folder: Path) -> Path:
    """A model folder, once the model has said something finite from it."""
    tiny_model(kind).save_pretrained(folder)
    save_byte_tokenizer(folder, 512)
    logits, _ = _own(AutoModelForCausalLM.from_pretrained(folder))
    if not torch.isfinite(logits).all():
        raise ValueError("its logits are not finite")
    return folder


def _measure(found: Found, source: Path, folder: Path) -> None:
    own, said = _own(AutoModelForCausalLM.from_pretrained(source))
    run, manifest = _fetched(found, source, folder)
    texts = folder / "texts.parquet"
    write_rows(_texts(run), texts, TEXT_SCHEMA, {})
    inputs = {"manifest": str(manifest), "texts": str(texts)}
    found.stage = "capture"
    capture_text(
        CaptureText.of(run, next(iter(run.texts))), inputs, {"kv": str(folder / "capture/kv.safetensors")}
    )
    found.stage = "identity"
    model = load_model(manifest.parent)
    seen = [measure_identity(model, _ids()[0].tolist(), context=prompt, steps=16) for prompt in PROMPTS]
    found.blocks, found.steps = (
        max(one[f"{way}_difference"] / one["bound"] * IDENTITY for one in seen) for way in ("block", "step")
    )
    # What quality and retrieval ask before they measure.
    for one in seen:
        check_identity(one, model)
    if not max(found.blocks, found.steps) <= IDENTITY:
        raise _Wrong(f"identity: {found.blocks:.1e} in blocks, {found.steps:.1e} in steps")
    found.stage = "generate"
    register()
    model = AutoModelForCausalLM.from_pretrained(manifest.parent, attn_implementation=NAME)
    set_policy(model, identity_policy(model.config))
    logits, spoken = _own(model)
    if not (logits - own).abs().max() <= IDENTITY * max(1.0, float(own.abs().max())):
        raise _Wrong(f"logits of the whole text differ by {float((logits - own).abs().max()):.1e}")
    if spoken != said:
        raise _Wrong("generate() says something else")
    found.stage = ""


def _fetched(found: Found, source: Path, folder: Path) -> tuple[Run, Path]:
    """The model as the workflow fetches it; where it asks for head_dim or the layers that attend, it is told what it says."""
    manifest, told = folder / "resources/models/tiny/manifest.json", {}
    while True:
        found.stage = "config"
        try:
            run = Run.resolve(_config(source, told), ROOT / "resources")
            found.stage = "fetch"
            fetch_model(FetchModel.of(run), {}, {"manifest": str(manifest)})
            break
        except (ConfigError, ModelError) as error:
            asked = re.search(r"Write:.*?(attention_layers|head_dim): (\[[\d, ]+\]|\d+)", str(error))
            if asked is None or asked[1] in told:
                raise
            told[asked[1]] = yaml.safe_load(asked[2])
    if run.layers != tuple(range(run.model.layers)):
        found.why = f"layers {', '.join(map(str, run.layers))} of {run.model.layers}" + (
            "; `attention_layers` must be stated" if "attention_layers" in told else ""
        )
    return run, manifest


def _refused_everywhere(source: Path) -> None:
    """What fetch or capture refuses, the seat refuses too, and a model without a policy never answers otherwise."""
    register()
    try:
        model = AutoModelForCausalLM.from_pretrained(source, attn_implementation=NAME)
    except GhostKVError:
        return
    try:
        logits = _logits(model)
    except GhostKVError:
        pass
    else:
        own = _logits(AutoModelForCausalLM.from_pretrained(source))
        if not (logits - own).abs().max() <= IDENTITY * max(1.0, float(own.abs().max())):
            raise _Wrong("without a policy it answers, and not as by itself")
    try:
        set_policy(model, identity_policy(model.config))
    except GhostKVError:
        return
    raise _Wrong("the seat takes it")


def _own(model: PreTrainedModel) -> tuple[torch.Tensor, list[int]]:
    """Logits of the text, and what follows its beginning."""
    prompt = _ids()[:, : PROMPTS[-1]]
    options = {"max_new_tokens": SAID, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        said = model.eval().generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    return _logits(model), said[0, prompt.shape[1] :].tolist()


def _logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(_ids(), use_cache=False).logits


def _ids() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(3, 256, TOKENS))[None]


def _texts(run: Run) -> list[dict[str, Any]]:
    """The text of one capture, as the stage `texts` leaves it."""
    name, entry = next(iter(run.texts.items()))
    content = Path(entry["custom"]["path"]).read_text(encoding="utf-8")
    row = dict.fromkeys(TEXT_SCHEMA.names) | {
        "text": name,
        "content": content,
        "sha256": sha256(content.encode()).hexdigest(),
    }
    return [row | {"domain": entry["domain"], "role": entry["role"]}]


def _config(source: Path, told: dict[str, Any]) -> dict[str, Any]:
    config = yaml.safe_load((ROOT / "tests/config/tiny.yaml").read_text(encoding="utf-8"))
    for text in [*config["texts"]["custom"], config["trace"]]:
        text["path"] = str(ROOT / text["path"])
    config["retrieval"]["data"] = str(ROOT / config["retrieval"]["data"])
    # Heads of some types are 8 wide here, of which half a bit a coordinate is no byte.
    config["calibrated"] = {"bits": [2]}
    return config | {"model": {"name": "tiny", "custom": {"source": "path", "path": str(source)} | told}}


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
