"""`python -m ghostkv.config`: show the default config; `--write` puts it in place, `--schema` shows its JSON schema."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ghostkv.config.experiment import Config
from ghostkv.config.render import default_yaml

CONFIG = Path(__file__).parents[2] / "config.yaml"


def main() -> None:
    """Write or print config.yaml, or print the schema that an editor checks it with."""
    parser = argparse.ArgumentParser(prog="python -m ghostkv.config", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"overwrite {CONFIG.name}")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of the config")
    chosen = parser.parse_args()
    if chosen.schema:
        print(json.dumps(Config.model_json_schema(by_alias=True), indent=2, ensure_ascii=False))
    elif chosen.write:
        CONFIG.write_text(default_yaml(Config()), encoding="utf-8")
    else:
        print(default_yaml(Config()), end="")


if __name__ == "__main__":
    main()
