"""A model that answers questions: prompts in its own form, the dense answer first, then one under every policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ghostkv.captures.capture_files import read_layers_table
from ghostkv.models.load import load_model, load_tokenizer
from ghostkv.runtime.answering import Answer, Reader
from ghostkv.runtime.ghost_attention import NAME, register
from ghostkv.runtime.load_policy import Sources, load_policy
from ghostkv.runtime.policy import Policy
from ghostkv.stages.retrieval.tables import DENSE, LIMITS
from ghostkv.stages.retrieval.tasks.scoring import score

_OURS = ("identity", "ghost", "calibrated", "certified_mass")
# Stands for the message while the chat template is written; no template and no text holds it.
_MESSAGE = "GHOSTKV-MESSAGE"


def sources_of(entry: Mapping[str, Any]) -> Sources:
    """`Sources` of the captured layers, from plain values."""
    heads = int(read_layers_table(entry["captures"][0]["folder"])["heads"][0])
    sketch, points = Path(entry["sketch"]), Path(entry["points"])
    return Sources(entry["layers"], heads, sketch, entry["captures"], points, entry["start"])


class Examinee:
    """The model, its policies, and the form of its prompts.

    Parameters
    ----------
    folder : path
        The model.
    params : mapping
        `sources`, `dtype`, `prefill`, `slack`, `threads`.
    policies : sequence of mapping
        Entries of `retrieval.policies`.
    thetas : mapping
        Label -> theta, for ghost policies given by their bytes.
    """

    def __init__(self, folder: str, params: Mapping[str, Any], policies: Sequence[Mapping], thetas: Mapping):
        register()
        self._model = load_model(folder, params["dtype"], params["threads"])
        self._model.set_attn_implementation(NAME)
        self._tokenizer, self._params = load_tokenizer(folder), params
        captured = sources_of(params["sources"])
        layers = range(self._model.config.get_text_config().num_hidden_layers)
        self._bare = sorted({*layers} - {*captured.layers})
        self._sources = replace(captured, layers=layers)
        form = {"prefill": params["prefill"]}
        dense = load_policy({"policy": "full", "label": DENSE, **form}, self._sources)
        self._reader = Reader(self._model, dense, _stops(self._model, self._tokenizer))
        self._before, self._after = self._form()
        self._policies = [(entry, self._load(entry, thetas)) for entry in policies]

    def answers(self, sample: Mapping[str, Any], worth: Callable[[float], bool]) -> list[tuple[dict, dict]]:
        """Who answered, and what; dense first, the policies only if its score makes that worth while.

        Parameters
        ----------
        sample : mapping
            A row of `SAMPLE_SCHEMA`.
        worth : callable
            Whether the policies shall answer too, given the dense model's score.

        Returns
        -------
        list of (dict, dict)
            Columns of `ANSWER_SCHEMA`.
        """
        context = self._encode(self._before + sample["context"])
        question = self._encode(sample["question"] + self._after + sample["answer_start"])
        draft = self._encode(sample["draft"])
        if self._params["prefill"] == "sparse":
            # Nothing is read before the policy decides; what starts from an empty cache is its own.
            return self._all(sample, [], context + question, draft, worth)
        return self._all(sample, context, question, draft, worth)

    def _all(self, sample, context: list[int], question: list[int], draft: list[int], worth) -> list:
        limit = min(sample["limit"], len(draft) + self._params["slack"])

        def enough(tokens: list[int]) -> bool:
            return score(self._decode(tokens), sample["references"], sample["rule"]) >= 1

        found: list[tuple[dict, dict]] = []
        for entry, policy in [({"policy": DENSE}, None), *self._policies]:
            if found and not worth(score(found[0][1]["answer"], sample["references"], sample["rule"])):
                break
            if sample["context_number"] >= (entry.get("contexts") or math.inf):
                continue
            self._reader.read(context, policy)
            said = self._reader.answer(question, draft, limit, policy, enough)
            found.append((self._who(entry, policy), self._said(said, len(context) + len(question))))
        return found

    def _who(self, entry: Mapping, policy: Policy | None) -> dict[str, str]:
        if policy is None:
            return {"policy": DENSE, "kind": DENSE, "certificate": "", "prefill": self._params["prefill"]}
        oracle = entry["policy"] == "oracle_mass" or "oracle" in entry.get("selector", {}).get("name", "")
        kind = "oracle" if oracle else "ours" if entry["policy"] in _OURS else "peer"
        kind = "ours" if entry.get("selector", {}).get("name") == "ghost" else kind
        return {
            "policy": entry["label"],
            "kind": kind,
            "certificate": policy.certificate,
            "prefill": self._params["prefill"],
        }

    def _said(self, said: Answer, tokens: int) -> dict[str, Any]:
        row = said.traffic
        read = row["records"] + row["probes"] + row["survivor_bytes"] + row["hot"]
        head = row["head_records"] + row["head_probes"] + row["head_survivor_bytes"] + row["head_hot"]
        return {
            "tokens": tokens, "answer": self._decode(said.tokens), "answer_tokens": len(said.tokens),
            "forwards": said.forwards, "bytes_read": read, "bytes_full": row["full"], "head_bytes_read": head,
            "head_bytes_full": row["head_full"],
        }  # fmt: skip

    def _load(self, entry: Mapping[str, Any], thetas: Mapping[str, float]) -> Policy:
        plain = {key: value for key, value in entry.items() if key not in LIMITS}
        plain["prefill"] = self._params["prefill"]
        # A layer that was not captured has no codec: it stays dense and counts in full.
        plain["dense_layers"] = sorted({*plain.get("dense_layers", ()), *self._bare})
        if entry["label"] in thetas:
            plain = {key: value for key, value in plain.items() if key != "ratio"}
            plain["theta"] = thetas[entry["label"]]
        return load_policy(plain, self._sources)

    def _form(self) -> tuple[str, str]:
        """What the chat template writes before a message, and after it; nothing where there is no template."""
        if not getattr(self._tokenizer, "chat_template", None):
            return "", "\n"
        message = [{"role": "user", "content": _MESSAGE}]
        written = self._tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        before, _, after = written.partition(_MESSAGE)
        return before, after

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)


def _stops(model: Any, tokenizer: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    found = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
    return {token for token in found if token is not None}
