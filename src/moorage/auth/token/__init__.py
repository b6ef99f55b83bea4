"""`auth.token`: tokens of an external token server.

    Bearer ──► jose.py: header ──► key ──► signature ──► claims.py: issuer, audience, times, access
                                    │ chains.py: certificates in the header        │
                                    ▼                                              ▼
          files.py ──► trusted_keys.py: rootcertbundle, jwks             authority.py: cache, challenge

A token is refused unless every check succeeds; the reason is only logged.  The signature is verified by joserfc
and cryptography, always with a key of the configured files (or of a certificate that chains to them), and with
an algorithm that fits the key; nothing in the token alone is trusted.

Read first: `authority.py`, `jose.py`, `claims.py`, `trusted_keys.py`.

Source: distribution's token specification (https://distribution.github.io/distribution/spec/auth/token/);
RFC 7515, 7517, 7518, 7519, 7638.
"""
