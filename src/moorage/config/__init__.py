"""Settings: all keys of CNCF Distribution's configuration and Moorage's own, from a file and from variables.

Read in this order: `model.py` (`Settings`), `sections/base.py` (declaration of a setting), `load.py` (the steps
from file to settings), `yaml.py` and `environment.py` (the two sources), `build.py` (parses values, collects
mistakes), `checks/dependencies.py` (rules between settings).

No other package reads the file or `REGISTRY_*` variables.  Importing this package imports nothing heavy.

Source: docs/reference/configuration.md.
"""
