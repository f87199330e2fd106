"""The two commands: ``incoming-server`` (also ``python -m incoming_wsgi``) and ``incoming``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from . import __version__, events, metrics, operate
from .central import Central, is_loopback, receiver_of, tenants_of
from .draining import Mark
from .errors import IncomingError
from .middleware import refuse_forgetful
from .receiver import Receiver
from .settings import Settings, gather
from .storage.bucket import is_bucket

#: Options that are settings, too: name, metavar, and what they mean.
_SETTINGS = (
    ("storage", "DIR", "folder that the files are kept in, or s3://BUCKET/PREFIX (required)"),
    (
        "registry",
        "URL",
        "registry of the uploads (sqlite://, redis://, …); default: a SQLite file in the storage folder",
    ),
    ("storages", "LIST", "further places that tickets can ask for by name, NAME=DIR or NAME=s3://BUCKET/PREFIX each"),
    ("prefix", "PATH", "where the front end and the back-end API are; default: /incoming"),
    ("public_url", "URL", "scheme and host by which browsers know this server"),
    ("backend_key", "KEY", "key that back ends must show; better given in INCOMING_BACKEND_KEY"),
    ("signing_keys", "KEYS", "whsec_… keys that hand-over calls are signed with; better in INCOMING_SIGNING_KEYS"),
    ("interim_responses", "BOOL", "whether IETF clients are sent 104 Upload Resumption Supported; default: false"),
    ("chunk_size", "SIZE", "longest chunk over HTTP; default: 64M"),
    ("durability", "MODE", "process, or fsync: what has arrived survives a power cut, too; default: process"),
    ("digest", "BOOL", "whether the SHA-256 of each file is computed; default: true"),
    ("free_space_floor", "SIZE", "part of the disk that uploads leave free; default: 256M"),
    ("max_length", "SIZE", "longest file; default: 1T"),
    ("trusted_proxies", "LIST", "networks of proxies whose X-Forwarded-For, -Proto and -Host count, and unix"),
    ("owner_uploads", "N", "uploads that may be open for one owner; default: any number"),
    ("owner_bytes", "SIZE", "bytes that these may have together; default: any"),
    ("owner_tickets", "RATE", "tickets for one owner, such as 100/h; default: any number"),
    ("address_uploads", "N", "uploads that may be open from one address; default: 1000"),
    ("address_bytes", "SIZE", "bytes that these may have together; default: any"),
    ("address_connections", "N", "connections from one address, to each worker; default: 256"),
    ("total_uploads", "N", "uploads of an app that may be open; default: any number"),
    ("total_bytes", "SIZE", "bytes that these may have together; default: any"),
    ("total_connections", "N", "connections that bring bytes, to each worker; default: 5000"),
    ("upload_connections", "N", "connections that bring bytes of one upload, to each worker; default: 32"),
    ("backend_tickets", "RATE", "tickets for one back end, such as 600/m; default: any number"),
    (
        "metrics",
        "BOOL",
        "whether /incoming/metrics of the internal listener has figures for Prometheus; default: false",
    ),
    ("idle_timeout", "SECONDS", "give an upload up when nothing has come for so long; default: 12 hours"),
    ("handover_timeout", "SECONDS", "how long a back end may take to answer; default: 55"),
    ("wait_timeout", "SECONDS", "call a back end that said wait again after; default: 600"),
    ("drain_file", "FILE", "file by which incoming drain empties this machine, best below /run"),
    ("file_mode", "OCTAL", "permission bits of the files; default: 640"),
    ("file_group", "GROUP", "group of the files"),
)


def serve(arguments: Sequence[str] | None = None) -> int:
    """``incoming-server``: run the stand-alone server until it is told to stop."""
    parser = _server_parser()
    options = parser.parse_args(arguments)
    try:
        settings = _settings_of(options, allow_origins=options.allow_origin, finish_hosts=options.finish_host)
        tenants = tenants_of(settings, options.config)
        refuse_forgetful(settings, (place for tenant in tenants for place in tenant.places))
    except (TypeError, ValueError, OSError, IncomingError) as error:
        parser.error(str(error.__cause__ or error))
    if not is_loopback(options.backend_bind) and not all(tenant.key for tenant in tenants):
        parser.error("a back-end listener that other machines can reach needs --backend-key (or --config)")
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("gunicorn.error").addFilter(events.Discretion())  # at level debug it has all addresses
    with _figures_of_all_workers() if settings.metrics else nullcontext():
        _run_gunicorn(Central(settings, tenants, [options.backend_bind]), options)
    return 0


@contextmanager
def _figures_of_all_workers() -> Iterator[None]:
    """A folder where workers put their figures together; it must be known before the first one counts."""
    with tempfile.TemporaryDirectory(prefix="incoming-metrics-") as folder:
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", folder)
        yield


def run_operator(arguments: Sequence[str] | None = None) -> int:
    """``incoming``: look at the uploads of a server, and lend a hand."""
    parser = _operator_parser()
    options = parser.parse_args(arguments)
    if "drain_command" in options:
        return _print_drain(parser, options)
    try:
        settings = _settings_of(options)
        if not is_bucket(settings.storage) and not Path(settings.storage).is_dir():
            raise ValueError(f"there is no folder {settings.storage}")
        receiver = receiver_of(settings, tenants_of(settings, options.config))
    except (TypeError, ValueError, OSError, IncomingError) as error:
        parser.error(str(error.__cause__ or error))
    try:
        for line in options.command(receiver, options):
            print(line)
    except IncomingError as error:
        print(f"incoming: {error}", file=sys.stderr)
        return 1
    finally:
        receiver.registry.close()
    return 0


def _print_drain(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if not options.file:
        parser.error("there is no drain file: name the one that the server has as drain_file, or set it for both")
    try:
        for line in options.drain_command(Mark(options.file), options):
            print(line, flush=True)
    except (IncomingError, OSError) as error:
        print(f"incoming: {error}", file=sys.stderr)
        return 1
    return 0


def _settings_of(options: argparse.Namespace, **more: Any) -> Settings:
    given: dict[str, Any] = {name: getattr(options, name, None) for name, _, _ in _SETTINGS}
    if given.get("file_mode") is not None:
        given["file_mode"] = int(given["file_mode"], 8)
    return gather({**given, "name": getattr(options, "name", None), **more})


def _server_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="incoming-server",
        description="Takes large files for web apps in any language, and hands them over.",
        epilog="Every option can also come from the environment: INCOMING_ and its name in capitals. "
        "GET /incoming/ready answers 200 on both listeners once the server is ready.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    _add_server_option(parser, "bind", "HOST:PORT", "127.0.0.1:8080", "public listener: serves the front end only")
    _add_server_option(
        parser,
        "backend-bind",
        "HOST:PORT",
        "127.0.0.1:8081",
        "internal listener: serves the back-end API only",
    )
    _add_server_option(parser, "workers", "N", "2", "worker processes")
    _add_server_option(parser, "log-level", "LEVEL", "info", "debug, info, warning or error")
    _add_server_option(parser, "forwarded-allow-ips", "LIST", "127.0.0.1", "proxies whose X-Forwarded-Proto counts")
    _add_common_options(parser)
    parser.add_argument(
        "--allow-origin",
        action="append",
        metavar="ORIGIN",
        help="origin of pages that may upload (repeatable)",
    )
    parser.add_argument(
        "--finish-host",
        action="append",
        metavar="HOST",
        help="host that may be in signalFinishURL (repeatable)",
    )
    return parser


def _operator_parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    _add_common_options(common)
    common.add_argument("--name", metavar="APP", help="name of the app, where the middleware has one; default: app")
    parser = argparse.ArgumentParser(prog="incoming", description="Look at uploads, and lend a hand.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (function, about) in _COMMANDS.items():
        command = commands.add_parser(name, parents=[common], help=about, description=about)
        if name in ("show", "trail", "retry", "cancel"):
            command.add_argument("id", metavar="ID", help="the ticket")
        command.set_defaults(command=function)
    for name, (drain_function, about) in _DRAIN_COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about)
        file = os.environ.get("INCOMING_DRAIN_FILE", "")
        command.add_argument("file", metavar="FILE", nargs="?", default=file, help="default: INCOMING_DRAIN_FILE")
        if name == "drain":
            command.add_argument("--wait", metavar="SECONDS", type=float, default=60.0, help="at most; default: 60")
        command.set_defaults(drain_command=drain_function)
    return parser


_COMMANDS: Mapping[str, tuple[Callable[[Receiver, argparse.Namespace], Any], str]] = {
    "list": (lambda receiver, _: operate.list_uploads(receiver), "list all uploads"),
    "show": (
        lambda receiver, options: operate.show(receiver, options.id),
        "show all that is known of an upload",
    ),
    "trail": (
        lambda receiver, options: operate.trail(receiver, options.id),
        "print what has happened to an upload",
    ),
    "retry": (lambda receiver, options: operate.retry(receiver, options.id), "hand a file over again"),
    "cancel": (lambda receiver, options: operate.cancel(receiver, options.id), "give an upload up"),
    "cleanup": (lambda receiver, _: operate.cleanup(receiver), "expire and forget what is due, now"),
    "recover": (
        lambda receiver, _: operate.recover(receiver),
        "make a lost registry anew from what lies in the storages; what it knows stays as it is",
    ),
}


#: They concern the processes of this machine, and no upload in particular.
_DRAIN_COMMANDS: Mapping[str, tuple[Callable[[Mark, argparse.Namespace], Iterator[str]], str]] = {
    "drain": (
        lambda mark, options: operate.drain(mark, options.wait),
        "take no more uploads on this machine, and wait until it is empty",
    ),
    "undrain": (lambda mark, _: operate.undrain(mark), "take uploads on this machine again"),
}


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    for name, metavar, about in _SETTINGS:
        parser.add_argument("--" + name.replace("_", "-"), metavar=metavar, help=about)
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=os.environ.get("INCOMING_CONFIG", ""),
        help="apps of a central server: [app:NAME] with key, finish_hosts, storage, storages, max_length and limits",
    )


def _add_server_option(parser: argparse.ArgumentParser, name: str, metavar: str, default: str, about: str) -> None:
    value = os.environ.get("INCOMING_" + name.upper().replace("-", "_"), default)
    parser.add_argument("--" + name, metavar=metavar, default=value, help=f"{about}; default: {default}")


def _run_gunicorn(app: Central, options: argparse.Namespace) -> None:
    try:
        import gevent  # noqa: F401
        from gunicorn.app.base import BaseApplication
    except ImportError:
        sys.exit("incoming-server needs more packages: pip install incoming-wsgi[server]")

    class Application(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            for name, value in _gunicorn_settings(options).items():
                if name in self.cfg.settings:
                    self.cfg.set(name, value)

        def load(self) -> Central:
            return app

    Application().run()


def _gunicorn_settings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "bind": [options.bind, options.backend_bind],
        "workers": int(options.workers),
        "worker_class": "gevent",
        "worker_connections": 10_000,
        "timeout": 60,
        "graceful_timeout": 15,
        "loglevel": options.log_level,
        "forwarded_allow_ips": options.forwarded_allow_ips,
        "proc_name": "incoming-server",
        "control_socket_disable": True,
        **({"child_exit": _forget_worker} if "PROMETHEUS_MULTIPROC_DIR" in os.environ else {}),
    }


def _forget_worker(_server: Any, worker: Any) -> None:
    metrics.mark_dead(worker.pid)


if __name__ == "__main__":
    sys.exit(serve())
