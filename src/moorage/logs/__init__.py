"""Application log, access log, and mails of log lines.

Read `log_setup.py` first, then `access_log.py`, `mail_hook.py` and `mail_sender.py`.
"""
