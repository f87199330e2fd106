"""Bytes and words between a client's socket and us: what WSGI leaves out, bodies, WebSockets, headers."""
