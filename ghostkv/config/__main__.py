"""`python -m ghostkv.config`: show the default config; `--write` puts it and the schema in place."""

from __future__ import annotations

import argparse
from pathlib import Path

from ghostkv.config.experiment import Config
from ghostkv.config.render import default_yaml, json_schema

ROOT = Path(__file__).parents[2]
CONFIG, SCHEMA = ROOT / "config.yaml", ROOT / "workflow" / "schemas" / "config.schema.json"


def main() -> None:
    """Write or print config.yaml and its schema."""
    parser = argparse.ArgumentParser(prog="python -m ghostkv.config", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"overwrite {CONFIG.name} and {SCHEMA.name}")
    if not parser.parse_args().write:
        print(default_yaml(Config()), end="")
        return
    SCHEMA.parent.mkdir(parents=True, exist_ok=True)
    CONFIG.write_text(default_yaml(Config()), encoding="utf-8")
    SCHEMA.write_text(json_schema(Config), encoding="utf-8")


if __name__ == "__main__":
    main()
