"""Training lowers its loss, gives the same frame twice, and hands over nothing but NumPy."""

import subprocess
import sys

import numpy as np
import pytest

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs.transform_code import TransformCode
from ghostkv.models.learned_frame import train_frame, training_text

SINKS, HOT, TOP_K = 2, 8, 6


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    width = 16
    mixing = rng.normal(size=(width, width)) * (2.0 ** -np.arange(width))[:, None] * 3
    keys = (rng.normal(size=(1, 400, width)) @ mixing).astype(np.float16)
    queries = (rng.normal(size=(2, 40, width)) @ mixing).astype(np.float32)
    positions = np.sort(rng.choice(np.arange(60, 400), 40, replace=False)).astype(np.int32)
    capture = LayerCapture(0, keys, None, queries, None, positions, 0.25)
    codec = TransformCode(2).fit(keys[0].astype(float), queries.reshape(-1, width).astype(float))
    return capture, codec


def train(fitted, steps=40):
    capture, codec = fitted
    text = training_text(capture, 0, codec, (SINKS, HOT, TOP_K), 3)
    return train_frame([text], codec, steps, 0.01, 0.05, (32, 256), 5)


def test_tau_is_the_kth_best_cold_score(fitted):
    capture, codec = fitted
    text = training_text(capture, 0, codec, (SINKS, HOT, TOP_K), 3)
    assert len(text.tau) == 80
    for row in range(0, 80, 9):
        scores = text.queries[row] @ text.keys[text.start[row] : text.stop[row]].T
        assert np.sort(scores)[-TOP_K] == pytest.approx(text.tau[row], abs=1e-4)
    # Seen from the frame, scores are what they were, less what is the same for all keys.
    original = (capture.queries.reshape(-1, 16) * 0.25) @ (capture.keys[0].astype(float) - codec.mean_).T
    rebuilt = text.queries @ text.keys.T
    assert np.abs(np.sort(rebuilt.sum(axis=1)) - np.sort(original.sum(axis=1))).max() < 1e-2


def test_a_text_without_cold_keys_teaches_nothing(fitted):
    capture, codec = fitted
    assert training_text(capture, 0, codec, (SINKS, 395, TOP_K), 3) is None


def test_training_lowers_its_loss_and_repeats_itself(fitted):
    first, second = train(fitted), train(fitted)
    assert first.losses[-8:].mean() < first.losses[:8].mean()
    assert np.array_equal(first.frame, second.frame)
    assert first.frame.dtype == np.float64
    assert np.linalg.cond(first.frame) < 1e4


def test_torch_stays_out_until_a_frame_is_trained():
    code = "import ghostkv.models.learned_frame, ghostkv.stages.calibrated.layer, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
