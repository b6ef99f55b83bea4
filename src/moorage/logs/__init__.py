"""Application log, access log, and mails of log lines.

Read `log_setup.py` first, then `mail_hook.py` and `mail_process.py`.
"""
