"""A model decodes under a policy for as long as a `with` is open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from weakref import WeakSet

from transformers import PreTrainedModel

from ghostkv.files.errors import ConfigError, ModelError
from ghostkv.models.interface import own_implementation, refuse_no_model
from ghostkv.runtime.ghost_attention import NAME, register, set_policy, unset_policy
from ghostkv.runtime.policy import Policy
from ghostkv.runtime.traffic import Traffic

# Models that decode under a policy now; a second one would take the first one's place, and leave none when it closes.
_TAKEN: WeakSet[PreTrainedModel] = WeakSet()
_TURN = Lock()


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
        It is no model of transformers, is compiled, decodes under a policy already, or does not send its attention through
        transformers' attention interface.
    ConfigError
        The policy was fitted for a model of another shape.
    """
    refuse_no_model(model, "elimination")
    if not isinstance(policy, Policy):
        raise ConfigError(
            f"elimination: the policy is of type {type(policy).__name__}. Accepted: what ghostkv.fit or ghostkv.load returns.\n"
            '  Write: ghostkv.elimination(model, ghostkv.load("policy.safetensors"))'
        )
    register()
    before = own_implementation(model, NAME)
    with _TURN:
        if model in _TAKEN:
            raise ModelError(
                "elimination: the model decodes under a policy already. Accepted: one at a time.\n"
                "  Write: close the other `with` first, or take copy.deepcopy(model) before it opens"
            )
        _TAKEN.add(model)
    try:
        model.set_attn_implementation(NAME)
        yield set_policy(model, policy)
    finally:
        unset_policy(model)
        model.set_attn_implementation(before)
        _TAKEN.discard(model)
