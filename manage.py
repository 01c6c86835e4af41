#!/usr/bin/env python
"""Django's command line for the control plane."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    # `quickstart` makes the settings for what it starts, so it must not need them itself.
    module = "cyxwiz_site.quickstart.settings" if sys.argv[1:2] == ["quickstart"] else "cyxwiz_site.settings"
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", module)
    execute_from_command_line(sys.argv)
