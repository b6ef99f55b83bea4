"""The benchmark beside other registries: `python3 dev.py bench --help`."""
