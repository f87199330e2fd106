"""``python serve.py SERVER PORT``: the recording app under one of the servers that have no command of their own."""

from __future__ import annotations

import sys

SERVER, PORT = sys.argv[1], int(sys.argv[2])
HOST = "127.0.0.1"

if SERVER == "pywsgi":
    from gevent import monkey

    monkey.patch_all()


def main() -> None:
    from tests.support.recording_app import app

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
