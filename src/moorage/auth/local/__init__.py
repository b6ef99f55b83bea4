"""Moorage's own token server (`auth.local`): who may do what is a file, and no other program is needed.

    users, robots, issuers ──► identities.py ──► Identity ──► policy.py ──► Grants
       (who is it?)                                              ▲
                                              policy_file.py ────┘ (the file, reloaded)

    authority.py   admits requests to the registry, and gives out tokens at /token (`http/token.py`)
    tokens.py      signs and reads the tokens; keys.py: with which key

`Policy.grants_of` is the one place that decides; API, tokens, web pages and `moorage auth explain` all ask it.
Everything is refused that no rule grants.  Imported only where `auth.local` is configured.

Source: docs/reference/auth.md, sections 5 to 7; docs/auth/local.md tells operators.
"""
