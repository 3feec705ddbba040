"""Peers in the model's seat: padding, cropping and long windows leave what a query reads as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from ghostkv.elimination.attention import cold_range  # noqa: E402
from ghostkv.files.errors import ModelError  # noqa: E402
from ghostkv.runtime.certified import CertifiedMass  # noqa: E402
from ghostkv.runtime.ghost_attention import set_policy  # noqa: E402
from ghostkv.runtime.observations import Observations  # noqa: E402
from ghostkv.runtime.policy import Policy  # noqa: E402
from ghostkv.runtime.seated import UNDO, OwnBudget  # noqa: E402
from ghostkv.selectors import make  # noqa: E402
from ghostkv.selectors.base import Budget  # noqa: E402
from tests.runtime.ghost_fixtures import (  # noqa: E402
    CONTEXT,
    block,
    captured,
    ghostly,
    nested,
    stepwise,
    text,
    tiny,
)
from tests.runtime.test_policies import SHARES, SMALL, seated_policy  # noqa: E402


@pytest.fixture(scope="module")
def captures():
    return captured(tiny())


def policy_of(name, captures, **options):
    """A seated policy; `options` replace those of its selector."""
    if name == "certified_mass":
        return Policy(name, {one.layer: CertifiedMass(nested(one), 0.2, SHARES) for one in captures}, **SMALL)
    policy = seated_policy(name, captures, 0.4)
    if options:
        _, selector = make({"name": name, **options})
        deciders = {layer: replace(one, selector=selector) for layer, one in policy.deciders.items()}
        policy = replace(policy, deciders=deciders)
    return policy


def decoded(model, ids, cache):
    with torch.inference_mode():
        return model(ids, cache=cache, use_cache=True).logits


def prefilled(model, policy, ids):
    set_policy(model, policy)
    with torch.inference_mode():
        return model(ids, use_cache=True).cache


@pytest.mark.parametrize("name", ["quest", "h2o", "snapkv", "certified_mass"])
def test_a_padded_row_is_the_row_alone(captures, name):
    model, padding, ids = ghostly(tiny()), 13, text()
    both = torch.cat([ids.clone(), text(seed=5)])
    both[0, :padding] = 0
    mask = torch.ones_like(both)
    mask[0, :padding] = 0
    policy = policy_of(name, captures)
    set_policy(model, policy)
    together = block(model, both, mask=mask)
    alone = block(model, ids[:, padding:], CONTEXT - padding)
    assert (together[:1] - alone).abs().max() < 1e-3
    assert (together[1:] - block(model, text(seed=5))).abs().max() < 1e-3


@pytest.mark.parametrize("observe", [8, 32, 64])
def test_a_window_of_any_length_gives_the_same_at_once_and_step_by_step(captures, observe):
    model = ghostly(tiny())
    traffic = set_policy(model, policy_of("snapkv", captures, observe=observe, kernel=1))
    at_once = block(model, text())
    counted = traffic.layers()["survivors"].to_list()
    traffic.reset()
    assert (stepwise(model, text()) - at_once).abs().max() < 1e-3
    assert traffic.layers()["survivors"].to_list() == counted


def test_a_longer_window_reads_other_keys(captures):
    """So that the test above compares windows and not constants."""
    model = ghostly(tiny())
    found = []
    for observe in (8, 32, 64):
        set_policy(model, policy_of("snapkv", captures, observe=observe, kernel=1))
        found.append(block(model, text()))
    assert (found[0] - found[1]).abs().max() > 1e-2
    assert (found[1] - found[2]).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["h2o", "snapkv"])
@pytest.mark.parametrize("cut", [3, UNDO])
def test_cutting_back_forgets_what_was_cut_and_no_more(captures, name, cut):
    model, policy, ids = ghostly(tiny()), policy_of(name, captures), text(CONTEXT + 70)
    wrong = ids.clone()
    wrong[:, CONTEXT + 34 :] += 1
    cache = prefilled(model, policy, ids[:, :CONTEXT])
    decoded(model, wrong[:, CONTEXT : CONTEXT + 34 + cut], cache)
    cache.crop(-cut)
    went_on = decoded(model, ids[:, CONTEXT + 34 :], cache)
    cache = prefilled(model, policy, ids[:, :CONTEXT])
    decoded(model, ids[:, CONTEXT : CONTEXT + 34], cache)
    assert (went_on - decoded(model, ids[:, CONTEXT + 34 :], cache)).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["h2o", "snapkv"])
def test_cutting_back_to_the_prompt_is_the_prompt_anew(captures, name):
    model, policy, ids = ghostly(tiny()), policy_of(name, captures), text(CONTEXT + 100)
    cache = prefilled(model, policy, ids[:, :CONTEXT])
    first = decoded(model, ids[:, CONTEXT:], cache)
    cache.crop(-100)
    assert torch.equal(decoded(model, ids[:, CONTEXT:], cache), first)


def test_cutting_into_a_sum_is_refused_when_it_is_needed(captures):
    model, policy, ids = ghostly(tiny()), policy_of("h2o", captures), text(CONTEXT + 100)
    cache = prefilled(model, policy, ids[:, :CONTEXT])
    decoded(model, ids[:, CONTEXT:], cache)
    cache.crop(-90)
    with pytest.raises(ModelError, match="read the prompt again"):
        decoded(model, ids[:, CONTEXT + 10 : CONTEXT + 20], cache)
    # All that was decoded may go. The refused call had appended its tokens to the first layer alone.
    for layer in cache.layers:
        layer.crop(CONTEXT - layer.get_seq_length())
    assert torch.isfinite(decoded(model, ids[:, CONTEXT : CONTEXT + 10], cache)).all()


def test_a_window_that_nobody_observed_is_refused(captures):
    """The prompt was read for a shorter window, as when policies share what one of them saw."""
    model, ids = ghostly(tiny()), text()
    short, long = (policy_of("snapkv", captures, observe=observe, kernel=1) for observe in (32, 64))
    cache = prefilled(model, short, ids[:, :CONTEXT])
    for layer, decider in long.deciders.items():
        cache.layers[layer].memory = replace(cache.layers[layer].memory, decider=decider)
    set_policy(model, long)
    with pytest.raises(ModelError, match="of the latest queries 64 must be observed"):
        decoded(model, ids[:, CONTEXT:], cache)


def test_a_sum_stands_for_the_queries_that_went_into_it():
    mass = np.random.default_rng(0).random((2, 40, 50)).astype(np.float32)
    seen = Observations()
    for start in range(0, 40, 10):
        seen.add(0, 0, mass[:, start : start + 10, : start + 20], np.arange(start, start + 10), 6)
    assert (seen.rows[0, 0].shape[1], seen.apart) == (7, 6)
    expected = sum(
        np.pad(mass[:, q, : q // 10 * 10 + 20], ((0, 0), (0, 40 - q // 10 * 10 - 10))) for q in range(34)
    )
    np.testing.assert_allclose(seen.rows[0, 0][:, 0], expected, rtol=1e-5)
    assert seen.places[0, 0].tolist() == [33, *range(34, 40)]
    cut = seen.before(37)
    assert (cut.apart, cut.lost, seen.apart) == (3, False, 6)
    assert seen.before(33).lost
    assert not seen.before(0).lost


def test_a_query_has_the_same_budget_whatever_comes_with_it():
    positions = np.arange(20, 400)
    together = cold_range(positions, np.zeros_like(positions), 2, 16)
    budget = OwnBudget((0.1,), together, 64)
    index = together.cold * 3.0
    found = budget.allowance(index)
    for i in (0, 150, 379):
        one = cold_range(positions[i : i + 1], np.zeros(1, np.int64), 2, 16)
        alone = Budget((0.1,), one, 64).allowance(index[i : i + 1])
        np.testing.assert_allclose(found[0, i], alone[0, 0])
    # A mean over these queries does not: the later ones pay for the first.
    assert not np.allclose(Budget((0.1,), together, 64).allowance(index)[0, -1], found[0, -1])
