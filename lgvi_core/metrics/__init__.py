"""Measures of an edited video, one module each."""
