"""One small KV head to decide on: a scene, its truth and a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs.by_name import make as make_codec
from ghostkv.config.selectors import selector_names
from ghostkv.files.buffers import Space
from ghostkv.selectors import make
from ghostkv.selectors.base import ALONE, Budget, Calibration, Scene, Selection, Selector
from ghostkv.selectors.columns import OneBudget, rank, selections
from ghostkv.selectors.evaluate import evaluate
from ghostkv.selectors.scenes import SceneTruth, budget_of, for_selector, view

EXACT = {"sinks": 2, "hot": 8, "top_k": 6, "headline_start": 150}
RATIOS = (0.1, 0.2, 0.4, 0.8)
WIDTH, TOKENS, GROUP = 16, 300, 2


def make_capture(seed: int, window: int = 0) -> LayerCapture:
    """Keys that vary in few directions, along which queries look."""
    shared, rng = np.random.default_rng(0), np.random.default_rng(seed)
    mixing = shared.normal(size=(WIDTH, WIDTH)) * (2.0 ** (-np.arange(WIDTH) / 2))[:, None] * 2
    keys = rng.normal(size=(1, TOKENS, WIDTH)) @ mixing + shared.normal(size=WIDTH)
    positions = np.sort(rng.choice(np.arange(40, TOKENS), 30, replace=False)).astype(np.int32)
    queries = rng.normal(size=(GROUP, len(positions), WIDTH)) @ mixing / 3 + 0.3
    return LayerCapture(
        layer=0,
        keys=keys.astype(np.float16),
        values=rng.normal(size=(1, TOKENS, WIDTH)).astype(np.float16),
        queries=queries.astype(np.float32),
        outputs=None,
        positions=positions,
        scale=WIDTH**-0.5,
        window=window,
    )


@dataclass
class Bench:
    """A measured text with what belongs to it."""

    capture: LayerCapture
    scene: Scene
    truth: SceneTruth
    budget: Budget
    calibration: Calibration
    threshold: Callable  # scenes of the threshold text, each with its truth and budget

    def select(self, selector: Selector, scene: Scene | None = None, column: str | None = None) -> Selection:
        """What a selector reads in a column, its first unless said otherwise, calibrated as the stage would."""
        scene = for_selector(selector, scene or self.scene, self.truth)
        fitted = selector.fit(self.calibration)
        every = selections(selector, fitted, scene, self.budget, self.spending(selector, fitted))
        column = column or selector.columns[0]
        return next(selection for name, selection in every if name == column)

    def spending(self, selector: Selector, fitted):
        """How the one KV head spends its budget; None where the selector has no such column."""
        if selector.columns == (ALONE,) or type(selector).estimate is Selector.estimate:
            return None
        one = OneBudget(RATIOS)
        for scene, truth, budget in self.threshold():
            seen = for_selector(selector, scene, truth)
            one.add(0, rank(selector, fitted, seen), seen, budget)
        return one.spending()[0]

    def measure(self, selection: Selection) -> dict[str, np.ndarray]:
        return evaluate(selection, self.scene, self.truth, self.budget)

    def read(self, selection: Selection, ratio: int) -> np.ndarray:
        """Keys read at a ratio, bool, shape [queries, tokens]."""
        return (selection.reads >> ratio) & 1 == 1

    def merit(self, scores: np.ndarray) -> np.ndarray:
        """Sum over the heads of the shares of the softmax that scores of cold keys give, in float64 [queries, tokens]."""
        known = self.scene.known.astype(float)
        scores = np.where(np.isfinite(known), known, np.where(self.cold(), scores, -np.inf))
        mass = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return (mass / mass.sum(axis=-1, keepdims=True)).sum(axis=0)

    def assert_best(self, read: np.ndarray, merit: np.ndarray) -> None:
        """No cold key that is left has more merit than one that is read."""
        for q, cold in enumerate(self.cold()):
            assert merit[q][read[q]].min(initial=np.inf) >= merit[q][cold & ~read[q]].max(initial=0) * (
                1 - 1e-4
            )

    def cold(self) -> np.ndarray:
        """Cold keys, bool, shape [queries, tokens]."""
        token = np.arange(self.capture.tokens)
        visible = self.scene.visible
        return (token >= visible.start[:, None]) & (token < visible.stop[:, None])


def make_bench(window: int = 0, softcap: float = 0.0) -> Bench:
    codec, threshold, held_out = (replace(make_capture(seed, window), softcap=softcap) for seed in (1, 2, 3))
    fitted = {}

    def records(capture):
        def of(name, size):
            if (name, size) not in fitted:
                codec_ = make_codec(name, size)
                fitted[name, size] = codec_.fit(
                    codec.keys[0].astype(float), codec.group_queries(0).reshape(-1, WIDTH).astype(float)
                )
            found = fitted[name, size]
            return found, found.decode(found.encode(capture.keys[0]))

        return of

    def scenes():
        scene, truth = view(threshold, 0, EXACT, records(threshold), Space())
        yield scene, truth, budget_of(threshold, scene.visible, RATIOS)

    class Scenes:
        def __iter__(self):
            for scene, _, budget in scenes():
                yield scene, budget

    calibration = Calibration(codec.keys[0].astype(np.float32), codec.queries, Scenes(), 7)
    scene, truth = view(held_out, 0, EXACT, records(held_out), Space())
    return Bench(held_out, scene, truth, budget_of(held_out, scene.visible, RATIOS), calibration, scenes)


@pytest.fixture
def bench():
    """A fresh measured text."""
    return make_bench()


@pytest.fixture
def windowed_bench():
    """The same with a sliding window of 120 tokens."""
    return make_bench(window=120)


@pytest.fixture
def selector():
    """`selector(name, **hyperparameters)`."""
    return lambda name, **options: make({"name": name, **options})[1]


CHOSEN = (
    {"name": "oracle_topk"},
    {"name": "oracle_topp"},
    {"name": "streaming_llm"},
    {"name": "h2o"},
    {"name": "h2o", "recent": 0.5},
    {"name": "snapkv", "observe": 4},
    {"name": "quest", "page": 8},
    {"name": "loki", "dims": 2},
    {"name": "sparq", "components": 2},
    {"name": "double_sparsity", "channels": 4},
    {"name": "pq", "parts": 4, "bits": 4},
    {"name": "magicpig", "bits": 3, "tables": 24},
    {"name": "token_picker", "chunks": [2, 2, 4, 4]},
    {"name": "one_bit", "scheme": "rotated"},
    {"name": "one_bit", "scheme": "grouped", "group": 64},
    {"name": "sign_hash", "bits": 16},
    {"name": "sign_hash", "bits": 32, "planes": "random", "score": "soft", "bits_per_table": 4},
    {"name": "twilight", "page": 16, "candidates": 0.25},
    {"name": "louver", "keys_per_cluster": 8},
    {"name": "ghost", "bits": 1.0},
    {"name": "ghost", "bits": 2.0},
)
# A selector that is not chosen above runs with its defaults.
_NAMED = {entry["name"] for entry in CHOSEN}
ALL = (*CHOSEN, *({"name": name} for name in selector_names() if name not in _NAMED))


IN_COLUMNS = [(entry, column) for entry in ALL for column in make(entry)[1].columns]


def pytest_generate_tests(metafunc):
    """`entry` runs a test on every selector; with `column`, in each of its columns."""
    if "column" in metafunc.fixturenames:
        names = ["-".join([*map(str, entry.values()), column]) for entry, column in IN_COLUMNS]
        metafunc.parametrize(("entry", "column"), IN_COLUMNS, ids=names)
    elif "entry" in metafunc.fixturenames:
        metafunc.parametrize("entry", ALL, ids=lambda e: "-".join(map(str, e.values())))
