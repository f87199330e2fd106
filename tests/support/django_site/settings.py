"""Host check, CSRF check and slashes as in a real project; the tests set what differs by the environment."""

from __future__ import annotations

import os

SECRET_KEY = "known to everybody, so good for tests only"
ALLOWED_HOSTS = os.environ["DJANGO_HOSTS"].split()
CSRF_TRUSTED_ORIGINS: list[str] = []
ROOT_URLCONF = "tests.support.django_site.urls"
WSGI_APPLICATION = "tests.support.django_site.wsgi.application"
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "OPTIONS": {"debug": False}}]
APPEND_SLASH = True
SECURE_SSL_REDIRECT = "DJANGO_HTTPS_ONLY" in os.environ
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
USE_TZ = True
DEBUG = False
