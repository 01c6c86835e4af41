"""Where somebody is led who asks for no page in particular."""

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponseRedirect
from django.shortcuts import redirect


@login_required
def door(request: HttpRequest) -> HttpResponseRedirect:
    return redirect("admin:index" if request.user.is_staff else "terminals")
