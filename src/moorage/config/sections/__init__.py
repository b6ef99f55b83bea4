"""Sections of the settings; `moorage.config.model` joins them.

The attribute path is the path in the file: `http.tls.key` is `settings.http.tls.key`.
"""
