"""One small KV head to decide on: a scene, its truth and a budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs.by_name import make as make_codec
from ghostkv.config.selectors import selector_names
from ghostkv.files.buffers import Space
from ghostkv.selectors import make
from ghostkv.selectors.base import Budget, Calibration, Scene, Selection, Selector
from ghostkv.selectors.evaluate import evaluate
from ghostkv.selectors.scenes import SceneTruth, budget_of, calibration_view, for_selector, view

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

    def select(self, selector: Selector, scene: Scene | None = None) -> Selection:
        """What a selector reads, calibrated as the stage would."""
        scene = scene or self.scene
        fitted = selector.fit(self.calibration)
        return selector.select(fitted, for_selector(selector, scene, self.truth), self.budget)

    def measure(self, selection: Selection) -> dict[str, np.ndarray]:
        return evaluate(selection, self.scene, self.truth, self.budget)

    def read(self, selection: Selection, ratio: int) -> np.ndarray:
        """Keys read at a ratio, bool, shape [group, queries, tokens]."""
        return (selection.reads >> ratio) & 1 == 1

    def cold(self) -> np.ndarray:
        """Cold keys, bool, shape [queries, tokens]."""
        token = np.arange(self.capture.tokens)
        visible = self.scene.visible
        return (token >= visible.start[:, None]) & (token < visible.stop[:, None])


def make_bench(window: int = 0) -> Bench:
    codec, threshold, held_out = (make_capture(seed, window) for seed in (1, 2, 3))
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

    class Scenes:
        def __iter__(self):
            scene = calibration_view(threshold, 0, EXACT, records(threshold), Space())
            yield scene, budget_of(threshold, scene.visible, RATIOS)

    calibration = Calibration(codec.keys[0].astype(np.float32), codec.queries, Scenes(), 7)
    scene, truth = view(held_out, 0, EXACT, records(held_out), Space())
    return Bench(held_out, scene, truth, budget_of(held_out, scene.visible, RATIOS), calibration)


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
    {"name": "double_sparsity", "channels": 4, "compensate": True},
    {"name": "pq", "parts": 4, "bits": 4},
    {"name": "pq", "parts": 4, "bits": 4, "compensate": True},
    {"name": "magicpig", "bits": 3, "tables": 24},
    {"name": "token_picker", "chunks": [2, 2, 4, 4]},
    {"name": "ghost", "bits": 1.0},
    {"name": "ghost", "bits": 1.0, "adaptive": False},
    {"name": "ghost", "bits": 1.0, "page": 32},
)
# A selector that is not chosen above runs with its defaults.
_NAMED = {entry["name"] for entry in CHOSEN}
ALL = (*CHOSEN, *({"name": name} for name in selector_names() if name not in _NAMED))


def pytest_generate_tests(metafunc):
    """`entry` runs a test on every selector."""
    if "entry" in metafunc.fixturenames:
        metafunc.parametrize("entry", ALL, ids=lambda e: "-".join(map(str, e.values())))
