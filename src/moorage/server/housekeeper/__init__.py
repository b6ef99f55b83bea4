"""The housekeeper: one process per node that runs background work and serves no requests.

Read `supervisor.py` (the side of the master) first, then `process.py`.
"""
