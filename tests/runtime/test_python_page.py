"""What docs/python.md shows is run, block by block, on a tiny model."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ghostkv.models.tokenizer import save_byte_tokenizer
from tests.runtime.ghost_fixtures import tiny
from tests.runtime.test_fitting import text

PAGE = (Path(__file__).parents[2] / "docs/python.md").read_text()


def test_the_page_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny(vocab_size=300, max_position_embeddings=1024).save_pretrained("model")
    save_byte_tokenizer("model", 1024)
    rng = np.random.default_rng(0)
    names = {
        "texts": [text(0, 900), text(1, 900)],
        "prompt": text(2, 300),
        "queries": rng.normal(size=(4, 256, 16)),
        "keys": rng.normal(size=(2, 512, 16)),
        "values": rng.normal(size=(2, 512, 16)),
    }
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(re.sub(r'"resources/models/[^"]+"', '"model"', block), names)
    assert re.search(r"Read: \d+\.\d %", capsys.readouterr().out.replace("%", " %"))
    assert names["said"].shape[1] == 300 + 32
    assert (tmp_path / "policy.safetensors").exists()
    assert names["table"].height > 0
