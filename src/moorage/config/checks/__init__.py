"""Checks of settings that no single value shows: combinations, files and what is not supported.

Read `dependencies.py` first; it calls the others.
"""
