"""Django's admin under our name."""

from django.contrib import admin
from django.contrib.admin.apps import AdminConfig


class CyxwizAdminConfig(AdminConfig):
    default_site = "cyxwiz_site.admin_site.CyxwizAdmin"


class CyxwizAdmin(admin.AdminSite):
    site_header = site_title = "CyxWiz"
    index_title = "Fleet"
