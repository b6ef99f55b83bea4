"""Settings: every key of CNCF Distribution's configuration and ours, from a file and from variables.

`load()` in `load.py` is the way in, `Settings` in `model.py` is what comes out.  Nobody else reads the file or
`REGISTRY_*` variables.  Importing this package imports nothing heavy.

Source: docs/reference/configuration.md.
"""
