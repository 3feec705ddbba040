"""The experiment, one small model per section; `ghostkv.config.experiment` puts them together.

Kept empty: stages import single sections, and what is imported here would rerun every one of them. `python
-m ghostkv.config --write` writes config.yaml again after a change; a test fails while they differ.
"""
