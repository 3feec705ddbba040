"""A policy for a model at hand, from texts: capture, codecs and thresholds in one call, without a results folder."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ghostkv.captures.capture_files import read_layer
from ghostkv.captures.captured_texts import CapturedText, from_position
from ghostkv.captures.positions import sample_positions
from ghostkv.captures.proven_writer import ProvenWriter
from ghostkv.codecs.fitting import fit_codecs
from ghostkv.codecs.records import CodecSpec, save_codecs
from ghostkv.codecs.sizes import code_bytes
from ghostkv.config.experiment import Config, load_config
from ghostkv.config.policies import CertifiedMassPolicy, GhostPolicy
from ghostkv.config.resolved import resolve
from ghostkv.config.shorter import shorter
from ghostkv.elimination.frontier import Setting, calibrated_layer
from ghostkv.files.errors import ConfigError, TextError
from ghostkv.files.progress import progress
from ghostkv.models.capture import record_attention
from ghostkv.models.interface import refuse_no_model
from ghostkv.models.probe import measurable_layers
from ghostkv.models.tokenizer import ModelTokenizer, tokenizer_of
from ghostkv.models.watch import LayerShape
from ghostkv.runtime.flat import calibrated_ratios, flat_heads
from ghostkv.runtime.ghost_decider import GhostFrames
from ghostkv.runtime.load_policy import load_policy
from ghostkv.runtime.policy import Policy, ghost_policy
from ghostkv.runtime.policy_files import FittedPolicy
from ghostkv.runtime.sources import Sources

Texts = Sequence[str] | Mapping[str, Sequence[str] | Mapping[str, str]]
ROLES = ("codec", "threshold")
# Queries of a head in the second half of texts that are shorter than the config's.
_QUERIES = 128
# A text must have cold keys, and queries that see them.
_LEAST = 256


def fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | ModelTokenizer,
    texts: Texts,
    *,
    bytes_ratio: float | None = None,
    certificate: float | None = None,
    target_fer: float | None = None,
    tokens: int | None = None,
    config: Mapping[str, Any] | None = None,
) -> FittedPolicy:
    """Fit a policy to a model on texts of the kind that it will read.

    Exactly one of `bytes_ratio`, `certificate` and `target_fer` says what is wanted. The numbers are those of the
    workflow for the same texts, roles and names.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model on the CPU.
    texts : sequence of str, or mapping of role to texts
        At least two, of `tokens` tokens each. They take turns at fitting codecs and at choosing thresholds, unless a
        mapping says which do what: `{"codec": [...], "threshold": [...]}`. A text that is named (a mapping of name to
        text in place of a list) has its queries sampled by its name, as in the workflow.
    bytes_ratio : float
        GQA-true bytes of the whole model over those of the full fp16 K and V. The threshold is fitted, and on other texts
        the ratio comes out near it.
    certificate : float
        Softmax mass that no query may drop more of, by arithmetic.
    target_fer : float
        Mean share of the keys of largest score that may be lost, calibrated per head (conformal risk control).
    tokens : int, optional
        Tokens of each text; else as many as all texts have, at most `capture.tokens`.
    config : mapping, optional
        Sections of a config that differ from the default: `{"frontier": {"hot": 128}}`.

    Raises
    ------
    ConfigError
        None or several of the three are given, one is out of reach, or a role has no text.
    TextError
        A text is shorter than `tokens`.
    ModelError, CaptureError
        The model cannot be recorded or decided.
    """
    asked = {"bytes_ratio": bytes_ratio, "certificate": certificate, "target_fer": target_fer}
    given = [name for name, value in asked.items() if value is not None]
    share = asked[given[0]] if len(given) == 1 else None
    if not isinstance(share, Real) or isinstance(share, bool) or not 0 < share < 1:
        raise ConfigError(
            f"fit: {', '.join(f'{name}={asked[name]}' for name in given) or 'nothing'} is asked for. Accepted: one of "
            f"{', '.join(asked)}, a share between 0 and 1.\n  Write: ghostkv.fit(model, tokenizer, texts, bytes_ratio=0.25)"
        )
    refuse_no_model(model, "fit")
    if tokens is not None and (not isinstance(tokens, Integral) or tokens < _LEAST):
        raise ConfigError(
            f"fit: tokens={tokens!r}. Accepted: a whole number of {_LEAST} or more, or None.\n  Write: tokens=2048"
        )
    if not isinstance(config, Mapping | None):
        raise ConfigError(
            f"fit: config is of type {type(config).__name__}. Accepted: sections that differ from the default.\n"
            '  Write: config={"frontier": {"hot": 128}}'
        )
    dealt = _dealt(texts)
    chosen, ids = _lengths(tokenizer_of(tokenizer), dealt, tokens, load_config(dict(config or {})))
    with tempfile.TemporaryDirectory(prefix="ghostkv_") as folder:
        fitting = _Fitting(model, chosen, [], Path(folder))
        fitting.capture(dealt, ids)
        return FittedPolicy(**vars(fitting.policy(**asked)))


def _dealt(texts: Texts) -> dict[str, tuple[str, str]]:
    """Name -> role and text."""
    if not isinstance(texts, Mapping):
        # A string is a sequence too, of letters.
        every = [] if isinstance(texts, str | bytes) or not isinstance(texts, Iterable) else list(texts)
        texts = {role: every[turn :: len(ROLES)] for turn, role in enumerate(ROLES)}
    if {*texts} != {*ROLES} or not all(isinstance(ones, Sized) and len(ones) for ones in texts.values()):
        raise ConfigError(
            f"fit: texts are given for {', '.join(str(role) for role in texts if texts[role]) or 'no role'}. Accepted: at least one "
            "that codecs are fitted on, and at least one that thresholds are chosen on.\n"
            '  Write: texts=[first, second], or texts={"codec": [...], "threshold": [...]}'
        )
    found = {}
    for role, ones in texts.items():
        ones = [ones] if isinstance(ones, str | bytes) else ones
        named = ones if isinstance(ones, Mapping) else {f"{role}_{i}": text for i, text in enumerate(ones)}
        for name, text in named.items():
            if not isinstance(name, str) or not isinstance(text, str) or name in found:
                what = "is named twice" if name in found else f"is of type {type(text).__name__}"
                raise ConfigError(
                    f"fit: text {name!r} {what}. Accepted: strings, each under a name of its own, if under any.\n"
                    '  Write: texts={"codec": {"first": ...}, "threshold": {"second": ...}}'
                )
            found[name] = (role, text)
    return found


def _lengths(
    tokenizer: ModelTokenizer, dealt: Mapping[str, tuple[str, str]], tokens: int | None, config: Config
) -> tuple[Config, dict[str, list[int]]]:
    """The config at the length that all texts have, and their token ids."""
    most = tokens or config.capture.tokens
    ids = {name: tokenizer.first(text, most) for name, (_, text) in dealt.items()}
    short = min(ids, key=lambda name: len(ids[name]))
    least = len(ids[short])
    if least < (tokens or _LEAST):
        raise TextError(
            f"fit: text {short} has {least} tokens. Accepted: texts of {tokens or _LEAST} or more.\n  Write: "
            + (
                f"tokens={least}"
                if tokens and least >= _LEAST
                else "longer texts, several documents in one string"
            )
        )
    if least != config.capture.tokens:
        config = load_config(shorter(config, least, _QUERIES))
    return config, {name: one[:least] for name, one in ids.items()}


@dataclass
class _Fitting:
    """One fit at work, in a folder of its own."""

    model: PreTrainedModel
    config: Config
    captures: list[CapturedText]
    folder: Path

    def capture(self, dealt: Mapping[str, tuple[str, str]], ids: Mapping[str, list[int]]) -> None:
        """Capture every text, its proof included."""
        asked, self.layers = self.config.capture, list(measurable_layers(self.model))
        with progress(total=len(dealt) * len(self.layers), desc="capture", unit="layer") as bar:
            for number, (name, (role, _)) in enumerate(dealt.items()):
                text = CapturedText(name, "", role, str(self.folder / f"text_{number}"))
                with ProvenWriter(Path(text.folder), {"text": name}, asked.tolerance) as writer:

                    def keep(layer, proof, writer=writer):
                        writer.append(layer, proof)
                        bar.update()

                    positions = sample_positions(self.config.query_bands(role), name, asked.seed)
                    record_attention(
                        self.model, ids[name], positions, keep, self.layers, asked.cache_dtype, asked.chunk
                    )
                self.captures.append(text)

    def policy(
        self, bytes_ratio: float | None, certificate: float | None, target_fer: float | None
    ) -> Policy:
        if certificate is not None:
            asked = CertifiedMassPolicy(label="certified_mass", delta=certificate, levels=None, shares=None)
            return load_policy(resolve(asked, self.config), self._sources({}))
        headline = self.config.frontier.headline
        spec, codecs = CodecSpec(headline.codec, code_bytes(headline.bits, self._shape.head_dim)), {}
        for layer in progress(self.layers, desc="codecs", unit="layer"):
            calibration = [read_layer(text.folder, layer) for text in self._texts("codec")]
            fitted = fit_codecs(calibration, [spec], layer, self.config.sketch.seed)
            codecs[layer] = self.folder / f"layer_{layer:02d}" / "codecs.safetensors"
            save_codecs(fitted, codecs[layer], {})
        sources = self._sources(codecs)
        if bytes_ratio is not None:
            asked = GhostPolicy(label="ghost", ratio=bytes_ratio, codec=headline.codec, bits=headline.bits)
            return load_policy(resolve(asked, self.config), sources)
        return self._calibrated(sources, spec, target_fer)

    def _calibrated(self, sources: Sources, spec: CodecSpec, target: float) -> Policy:
        frontier = self.config.frontier
        grids = {"relative_lse": frontier.grids()["relative_lse"]}
        setting = Setting.of(frontier.sinks, frontier.hot, frontier.top_k, grids)
        frames, thetas, ratios = {}, {}, {}
        for layer in progress(self.layers, desc="thresholds", unit="layer"):
            codecs = sources.fitted(layer, spec)
            captures = [
                from_position(read_layer(text.folder, layer), text, frontier.headline_start)
                for text in self._texts("threshold")
            ]
            frames[layer] = GhostFrames.of(codecs)
            thetas[layer] = calibrated_layer(captures, codecs, setting, "fer", target)
            kept = frontier.sinks, frontier.hot, frontier.headline_start
            ratios[layer] = calibrated_ratios(captures, codecs, thetas[layer], *kept)
        if not any(np.isfinite(found).any() for found in thetas.values()):
            each = len(captures[0].positions)
            raise ConfigError(
                f"fit: target_fer={target:g} cannot be promised from {each * len(captures)} queries a head: it takes "
                f"{math.ceil(1 / target) - 1} at least, and a text gives {each}. Accepted: more threshold texts, or a larger "
                f'target.\n  Write: texts={{"codec": [...], "threshold": [...]}} with {math.ceil(1 / target / each)} or more '
                "threshold texts"
            )
        policy = ghost_policy(
            frames, thetas, sources.heads, name="calibrated", sinks=frontier.sinks, hot=frontier.hot,
            certificate=f"calibrated: mean fer <= {target:g}, on average over exchangeable queries",
        )  # fmt: skip
        return policy.leaving_dense(flat_heads(ratios))

    def _texts(self, role: str) -> list[CapturedText]:
        return [text for text in self.captures if text.role == role]

    def _sources(self, codecs: Mapping[int, Path]) -> Sources:
        captures, start = tuple(self.captures), self.config.frontier.headline_start
        return Sources(self.layers, self._shape.heads, self._shape.head_dim, codecs, captures, None, start)

    @property
    def _shape(self) -> LayerShape:
        return next(iter(measurable_layers(self.model).values()))
