"""The only package that builds things and joins rooms: settings become a driver, a registry and an application.

Read `app.py` first, then `storage.py`, `authentication.py`, `http.py` and `serving.py`, which runs the result.
"""
