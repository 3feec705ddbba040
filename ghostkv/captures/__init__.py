"""Capture files, captured texts, the writer that proves what it writes, and generated captures."""
