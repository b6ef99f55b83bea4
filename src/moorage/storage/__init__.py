"""Bytes under keys: `driver.py` says what a back end must do; every other file is one, or a part of one."""
