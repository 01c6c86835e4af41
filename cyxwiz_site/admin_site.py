"""Tells Django to use our admin site. Apart from it, because this is imported before any model can be."""

from django.contrib.admin.apps import AdminConfig


class CyxwizAdminConfig(AdminConfig):
    default_site = "cyxwiz_site.fleet_admin.CyxwizAdmin"
