"""What docs/inputs.md has users write: the files of its transformers saver are what the lab itself captures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ghostkv.models.capture import record_attention
from ghostkv.models.load import load_model
from ghostkv.models.tokenizer import save_byte_tokenizer
from ghostkv.stages.capture.tensor_import import layers_in, load_layer
from tests.runtime.ghost_fixtures import tiny

PAGE = (Path(__file__).parents[3] / "docs/inputs.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TOKENS = 96


@pytest.fixture
def saved(tmp_path):
    """Folder of the saver's files, and the model that it watched."""
    from transformers import AutoTokenizer

    tiny(vocab_size=300, max_position_embeddings=1024).save_pretrained(tmp_path / "model")
    save_byte_tokenizer(tmp_path / "model", 1024)
    folder = tmp_path / "held_out"
    folder.mkdir()
    names = {
        "model": load_model(tmp_path / "model"),
        "tokenizer": AutoTokenizer.from_pretrained(tmp_path / "model"),
        "folder": folder,
        "text": "abcdefgh" * (TOKENS // 8),
    }
    exec(BLOCKS[0], names)
    return folder, names


def test_the_transformers_saver_writes_what_the_lab_captures(saved):
    folder, names = saved
    ids = names["tokenizer"](names["text"]).input_ids
    positions = np.arange(TOKENS // 2, TOKENS)
    ours = []
    # The saver's model would write its files again.
    record_attention(
        load_model(folder.parent / "model"), ids, positions, lambda capture, proof: ours.append(capture)
    )
    found = layers_in(folder)
    assert list(found) == [capture.layer for capture in ours]
    for capture in ours:
        theirs, _ = load_layer(found, capture.layer).first(len(ids)).capture(positions, None)
        assert theirs.scale == pytest.approx(capture.scale)
        # The first layer reads the same; after it, attention over a float16 cache differs from the saver's.
        slack = 2e-3 if capture.layer else 1e-5
        for name in ("queries", "keys", "values", "outputs"):
            own, other = (np.float32(getattr(one, name)) for one in (capture, theirs))
            assert np.abs(own - other).max() <= slack * np.abs(own).max(), (capture.layer, name)


def test_the_vllm_saver_is_python():
    compile(BLOCKS[1], "docs/inputs.md", "exec")
