"""Judging results: methods, measures, and how they are shown."""
