"""Tokens of a token server elsewhere: who signed them, what they allow, and what a client is told without one.

    Bearer ──► jose.py: three parts, header ──► which key? ──► signature ──► claims.py: whose, for whom, until when
                                                  │  chains.py: certificates in the header        │
                                                  ▼                                               ▼
               files.py ──► keys.py: rootcertbundle, jwks, by id              authority.py: remembers, challenges

A token is refused unless every step says yes; only the log says which one did not.  The signature is checked by
joserfc and cryptography, and always with a key from the configured files (or one that a certificate of them
vouches for), by an algorithm that fits the key: what a token says of itself is never enough.

Source: docs/reference/auth.md, section 4; RFC 7515, 7517, 7518, 7519, 7638; distribution's token specification.
"""
