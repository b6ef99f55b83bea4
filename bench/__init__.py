"""The benchmark against Debian's docker-registry: `python3 dev.py bench --help`."""
