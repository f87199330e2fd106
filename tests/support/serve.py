"""``python serve.py SERVER PORT MODULE:APP``: an app under one of the servers that have no command of their own."""

from __future__ import annotations

import sys
from importlib import import_module

SERVER, PORT, APP = sys.argv[1], int(sys.argv[2]), sys.argv[3]
HOST = "127.0.0.1"

if SERVER == "pywsgi":
    from gevent import monkey

    monkey.patch_all()


def main() -> None:
    module, _, name = APP.partition(":")
    app = getattr(import_module(module), name)

    if SERVER == "pywsgi":
        from gevent.pywsgi import WSGIServer

        WSGIServer((HOST, PORT), app, log=None).serve_forever()
    elif SERVER == "werkzeug":
        from werkzeug.serving import run_simple

        run_simple(HOST, PORT, app, threaded=True)
    elif SERVER == "waitress":
        from waitress import serve

        serve(app, host=HOST, port=PORT, threads=8)
    elif SERVER == "cheroot":
        from cheroot.wsgi import Server

        Server((HOST, PORT), app, numthreads=8).start()
    else:
        raise SystemExit(f"unknown server {SERVER}")


main()
