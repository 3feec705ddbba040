"""A config made small: what can be seen of it in a minute and a half."""

from __future__ import annotations

from ghostkv.config.experiment import Config, load_config

# Tokens of context at most, and queries of a head in the second half of them: enough to promise a loss of 1 %.
_TOKENS = 2048
_QUERIES = 128


def demo_config(config: Config) -> Config:
    """The same model on less text: one domain, at most 2,048 tokens, and the headline's codec alone."""
    plain = config.plain()
    tokens = min(config.capture.tokens, _TOKENS)
    half, first = tokens // 2, config.capture.query_bands[0].start
    domain = next(iter(config.text_names().values()))["domain"]
    texts = plain["texts"] | {
        "domains": [name for name in config.texts.domains if name == domain],
        "custom": [entry for entry in plain["texts"]["custom"] if entry["domain"] == domain],
    }
    bands = [{"start": half, "stop": tokens, "count": min(_QUERIES, tokens - half)}]
    if first < half:
        bands.insert(0, {"start": first, "stop": half, "count": min(_QUERIES // 4, half - first)})
    headline = config.frontier.headline
    return load_config(
        plain
        | {
            "texts": texts,
            "capture": plain["capture"] | {"tokens": tokens, "layers": "all", "query_bands": bands},
            "sketch": plain["sketch"] | {"codecs": [{"name": headline.codec, "bytes": [headline.bytes]}]},
            "frontier": plain["frontier"] | {"headline_start": half},
            "quality": plain["quality"] | {"continuation": min(config.quality.continuation, half)},
            "report": plain["report"] | {"title": f"{config.report.title}: a first look"},
        }
    )
