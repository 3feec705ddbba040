"""The report: Parquet in, one page, one Markdown file, one JSON file and the figures out.

A chapter of the report is one module in `ghostkv/report/sections/`: it names the tables it needs, builds
prose, figures and tables from them, and lists the headline figures of its stage. Adding a chapter means
adding that module to `CHAPTERS` in `ghostkv/report/chapters.py`; a new chart or figure of an
existing stage goes into the stage's module.
"""
