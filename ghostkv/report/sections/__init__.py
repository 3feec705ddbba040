"""Chapters of the report, one a stage; `ghostkv.report.chapters` puts them in order."""
