"""A model that answers questions: prompts in its own form, the dense answer first, then one under every policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostkv.files.io import read_table
from ghostkv.models.load import load_model
from ghostkv.models.tokenizer import ModelTokenizer, load_tokenizer
from ghostkv.runtime.answering import Answer, Reader
from ghostkv.runtime.ghost_attention import NAME, register
from ghostkv.runtime.load_policy import load_policy
from ghostkv.runtime.measure import check_identity, measure_identity
from ghostkv.runtime.policy import Policy
from ghostkv.runtime.sources import Sources
from ghostkv.stages.retrieval.schemas import DENSE, SAMPLE_SCHEMA, THETA_SCHEMA
from ghostkv.stages.retrieval.tasks.scoring import score

if TYPE_CHECKING:
    from ghostkv.config.policies import SomePolicy
    from ghostkv.stages.retrieval.jobs import AskedPolicy, RetrievalTask

# Tokens of a prompt that are read and decoded with nothing eliminated.
_CHECKED = 256


class Examinee:
    """The model, its policies, and the form of its prompts; arguments as `ghostkv.stages.retrieval.task.answer`."""

    def __init__(self, job: RetrievalTask, inputs: Mapping[str, Any], threads: int):
        folder = str(Path(inputs["manifest"]).parent)
        self._tokenizer, self._job = load_tokenizer(folder), job
        # Before anything is asked: with nothing eliminated, the model must say what it says by itself.
        self._form = self._tokenizer.form()
        sample = read_table(inputs["samples"], SAMPLE_SCHEMA).row(0, named=True)
        prompt = [*self._context(sample), *self._question(sample)]
        self._model = _checked(folder, job.dtype, threads, job.device, tuple(prompt[:_CHECKED]))
        layers = range(self._model.config.get_text_config().num_hidden_layers)
        sources = replace(Sources.read(job, inputs), layers=layers)
        self._reader = Reader(
            self._model, load_policy(job.dense, sources), _stops(self._model, self._tokenizer)
        )
        thetas = dict(read_table(inputs["thetas"], THETA_SCHEMA).iter_rows())
        self._policies = [(asked, self._load(asked.policy, thetas, sources)) for asked in job.policies]

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
        context, question = self._context(sample), self._question(sample)
        draft = self._tokenizer.encode(sample["draft"])
        if self._job.prefill == "sparse":
            # Nothing is read before the policy decides; what starts from an empty cache is its own.
            return self._all(sample, [], context + question, draft, worth)
        return self._all(sample, context, question, draft, worth)

    def _all(self, sample, context: list[int], question: list[int], draft: list[int], worth) -> list:
        limit = min(sample["limit"], len(draft) + self._job.slack)

        def enough(tokens: list[int]) -> bool:
            return score(self._decode(tokens), sample["references"], sample["rule"]) >= 1

        found: list[tuple[dict, dict]] = []
        for asked, policy in [(None, None), *self._policies]:
            if found and not worth(score(found[0][1]["answer"], sample["references"], sample["rule"])):
                break
            if asked and sample["context_number"] >= (asked.contexts or math.inf):
                continue
            self._reader.read(context, policy)
            said = self._reader.answer(question, draft, limit, policy, enough)
            found.append((self._who(asked, policy), self._said(said, len(context) + len(question))))
        return found

    def _who(self, asked: AskedPolicy | None, policy: Policy | None) -> dict[str, str]:
        about = {"policy": DENSE, "kind": DENSE, "certificate": ""}
        if asked is not None:
            about = {"policy": policy.name, "kind": asked.kind, "certificate": policy.certificate}
        return about | {"prefill": self._job.prefill}

    def _said(self, said: Answer, tokens: int) -> dict[str, Any]:
        row = said.traffic
        read = row["records"] + row["probes"] + row["survivor_bytes"] + row["hot"]
        head = row["head_records"] + row["head_probes"] + row["head_survivor_bytes"] + row["head_hot"]
        return {
            "tokens": tokens, "answer": self._decode(said.tokens), "answer_tokens": len(said.tokens),
            "forwards": said.forwards, "bytes_read": read, "bytes_full": row["full"], "head_bytes_read": head,
            "head_bytes_full": row["head_full"],
        }  # fmt: skip

    def _load(self, policy: SomePolicy, thetas: Mapping[str, float], sources: Sources) -> Policy:
        # A layer that was not captured has no codec: it stays dense and counts in full.
        bare = {*sources.layers} - {*self._job.layers}
        changes = {"dense_layers": tuple(sorted({*policy.dense_layers, *bare}))}
        if policy.label in thetas:
            changes |= {"ratio": None, "theta": thetas[policy.label]}
        return load_policy(policy.model_copy(update=changes), sources)

    def _context(self, sample: Mapping[str, Any]) -> list[int]:
        return [*self._form.start, *self._tokenizer.encode(self._form.before + sample["context"])]

    def _question(self, sample: Mapping[str, Any]) -> list[int]:
        return self._tokenizer.encode(sample["question"] + self._form.after + sample["answer_start"])

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, special=False)


@lru_cache(maxsize=1)
def _checked(folder: str, dtype: str, threads: int, device: str, prompt: tuple[int, ...]) -> Any:
    """The model, loaded and checked once for all tasks that a process answers."""
    register()
    model = load_model(folder, dtype, threads, device)
    model.set_attn_implementation(NAME)
    check_identity(measure_identity(model, prompt), model)
    return model


def _stops(model: Any, tokenizer: ModelTokenizer) -> set[int]:
    ends = model.generation_config.eos_token_id
    found = set(ends if isinstance(ends, list) else [ends]) | tokenizer.ends
    return {token for token in found if token is not None}
