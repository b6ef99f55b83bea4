"""Who may do what; knows nothing of HTTP.

    access.py      the words: Need, Principal, Grants, Credentials, Authority
    silly.py basic.py token/ local/      one for each way of proving who you are
    password_file.py    the password file: read anew when it changes, bcrypt in threads
    htpasswd_write.py     its lines made and written
    rate_limit.py     guessing slowed down

`wiring/app.py` builds the one `Authority` that the configuration names, `http/auth.py` asks it for every request.

Source: docs/reference/auth.md.
"""
