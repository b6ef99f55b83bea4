"""Contract suites for drivers and registries, and builders of content, for their authors and for Moorage's tests.

Shipped with the package; install `moorage[testing]`.
"""
