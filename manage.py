#!/usr/bin/env python
"""Django's command line for the control plane."""

import os
import sys

from django.core.management import execute_from_command_line

from cyxwiz_site.env import BadSetting

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cyxwiz_site.settings")
    if sys.argv[1:2] == ["quickstart"]:
        # It makes the settings for what it starts, so it must not need them itself.
        os.environ["DJANGO_SETTINGS_MODULE"] = "cyxwiz_site.quickstart.settings"
    try:
        execute_from_command_line(sys.argv)
    except BadSetting as error:
        sys.exit(f"Error: {error}. See docs/settings.md.")
