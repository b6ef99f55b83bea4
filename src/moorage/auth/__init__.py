"""Who may do what; knows nothing of HTTP.

    access.py      the words: Need, Principal, Grants, Credentials, Authority
    silly.py htpasswd.py token.py local/      one for each way of proving who you are

`app.py` builds the one `Authority` that the configuration names, `http/auth.py` asks it for every request.

Source: reference/auth.md.
"""
