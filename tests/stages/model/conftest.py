"""A tiny model, fetched once a session."""

import pytest

from tests.stages.model.model_fixtures import fetched, write_gguf


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A tiny random Llama with two query heads to a KV head."""
    custom = {"source": "random", "architecture": "llama", "heads": 4, "kv_heads": 2}
    return fetched(tmp_path_factory.mktemp("tiny"), custom, "tiny")


@pytest.fixture(scope="session")
def tiny_gguf(tiny, tmp_path_factory):
    return write_gguf(tiny, tmp_path_factory.mktemp("gguf") / "tiny.gguf")
