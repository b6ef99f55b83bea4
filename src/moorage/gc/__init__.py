"""Garbage collection of a registry that keeps serving.

Read first: `mark.py`, `options.py`.  Below: `registry/`, `storage/`.
"""
