"""HTTP/1.1 server on uvloop for ASGI applications.

Read in this order: `interfaces.py`, `connection.py` (states of a connection), `exchange.py` (one request in ASGI),
`request_head.py` and `request_body.py` (grammar), `file_sender.py` (files), `tls_connection.py`, `server.py`
(accepting, timeouts, graceful shutdown).

Serves any ASGI application and imports nothing of the registry, which also runs under other ASGI servers.
docs/decisions/0011-http-server.md has the reasons.
"""

from moorage.server.http1.options import Http1Options
from moorage.server.http1.server import Server

__all__ = ["Http1Options", "Server"]
