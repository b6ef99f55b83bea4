"""What driver authors and our own tests need: contract suites every implementation must pass, and builders.

Shipped with the package; install `moorage[testing]`.
"""
