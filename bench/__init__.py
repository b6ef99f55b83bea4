"""Benchmarks of Moorage and other registries: `python3 dev.py bench --help`."""
