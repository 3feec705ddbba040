"""GhostKV Lab. Empty on purpose: every stage depends on this file, so an import here would rerun them all."""

__version__ = "0.1.0"
