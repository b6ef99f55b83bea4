"""Authentication and authorization: who sends a request, and may it be served.  No HTTP here.

`wiring/` builds the one `Authority` that the configuration names (`silly`, `htpasswd`, `token` or `local`), and
`http/auth.py` calls it for every request.  What is not granted is refused, and a refusal is the same whether the
repository exists or not.

Read first:

    access.py          Authority, AccessRequest, Need, Principal, Grants; the one place that decides
    basic.py           the smallest authority: htpasswd
    token/             tokens of an external token server (its `__init__` has a reading order)
    local/             Moorage's own token server (likewise)
    password_file.py   passwords: reload, bcrypt in threads, cache of verified pairs
    rate_limit.py      limit of failed logins per client address

Source: distribution's docs, "Registry configuration, auth" and "Token authentication specification"
(https://distribution.github.io/distribution/spec/auth/).
"""
