from __future__ import annotations

from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from . import views

urlpatterns = [
    path("page/", views.page, name="page"),
    path("ticket/", require_POST(views.ticket)),
    path("measure/", require_POST(views.measure)),
    path("api/arrived/", csrf_exempt(require_POST(views.arrived)), name="arrived"),
]
