"""Checks of combinations of settings, of files that they name, and of unsupported values.

Read `dependencies.py` first; it calls the others.
"""
