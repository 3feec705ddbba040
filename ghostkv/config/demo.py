"""A config made small: what can be seen of it in a minute and a half."""

from __future__ import annotations

from ghostkv.config.experiment import Config, load_config
from ghostkv.config.shorter import shorter

# Tokens of context at most, and queries of a head in the second half of them: enough to promise a loss of 1 %.
_TOKENS = 2048
_QUERIES = 128


def demo_config(config: Config) -> Config:
    """The same model on less text: one domain, at most 2,048 tokens, and the headline's codec alone."""
    plain = shorter(config, min(config.capture.tokens, _TOKENS), _QUERIES)
    domain = next(iter(config.text_names().values()))["domain"]
    texts = plain["texts"] | {
        # One held-out text, which takes all queries.
        "per_role": plain["texts"]["per_role"] | {"held_out": 1},
        "domains": [name for name in config.texts.domains if name == domain],
        "custom": [entry for entry in plain["texts"]["custom"] if entry["domain"] == domain],
    }
    headline = config.frontier.headline
    return load_config(
        plain
        | {
            "texts": texts,
            "capture": plain["capture"] | {"layers": "all", "held_out_share": 1.0},
            "sketch": plain["sketch"] | {"codecs": [{"name": headline.codec, "bits": [headline.bits]}]},
            "report": plain["report"] | {"title": f"{config.report.title}: a first look"},
        }
    )
