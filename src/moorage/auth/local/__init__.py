"""Moorage's own token server (`auth.local`): a policy file grants permissions to users, robots and CI jobs.

    password, robot secret,       identities.py            policy.py
    OIDC token            ──────────────────────► Identity ─────────► Grants
                                                               ▲
                                             policy_source.py ─┘ (the file, reloaded)

`AccessPolicy.grants_of` is the only place that decides; requests, tokens and `moorage auth explain` use it.
What no rule grants is refused.  Imported only if `auth.local` is configured.

Read first:

    authority.py      admits requests to the registry, and issues tokens at /token (`http/token.py`)
    identities.py     authenticates a login
    policy.py         rules and their decision; `policy_file.py` parses them
    tokens.py         signs and verifies tokens, with keys of `signing_keys.py`
    oidc_tokens.py    tokens of other issuers, verified with keys of `jwks.py`

Source: distribution's token and OAuth 2.0 specifications (https://distribution.github.io/distribution/spec/auth/);
docs/auth/local.md is for operators.
"""
