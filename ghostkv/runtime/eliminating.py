"""A model decodes under a policy for as long as a `with` is open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from ghostkv.models.interface import own_implementation
from ghostkv.runtime.ghost_attention import NAME, register, set_policy, unset_policy
from ghostkv.runtime.policy import Policy
from ghostkv.runtime.traffic import Traffic


@contextmanager
def elimination(model: PreTrainedModel, policy: Policy) -> Iterator[Traffic]:
    """Let `model` decode under `policy` inside the context; afterwards it attends as before.

    `generate()` and plain forward calls both do. What starts from an empty cache is prefill, which is dense and not
    counted, unless the policy says otherwise.

    Parameters
    ----------
    policy : Policy
        From `ghostkv.fit` or `ghostkv.load`.

    Yields
    ------
    Traffic
        Counts what is read; `traffic.summary()` says how much it was, and what was promised.

    Raises
    ------
    ModelError
        The model does not send its attention through transformers' attention interface.
    ConfigError
        The policy was fitted for a model of another shape.
    """
    register()
    before = own_implementation(model, NAME)
    model.set_attn_implementation(NAME)
    try:
        yield set_policy(model, policy)
    finally:
        unset_policy(model)
        model.set_attn_implementation(before)
