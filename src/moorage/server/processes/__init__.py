"""The processes of one node: master, workers and storage monitor.

Read `master.py` first, then `worker_pool.py`, `worker.py` and `protocol.py` (their messages).
"""
