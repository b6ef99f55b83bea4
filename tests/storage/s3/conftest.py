"""Which tests of this folder there are: moto verifies no signature, so it has none of those about signatures."""

from __future__ import annotations

from tests.s3 import is_moto

collect_ignore = ["test_signed.py"] if is_moto() else []
"""`python3 dev.py stores` runs them (docs/testing.md)."""
