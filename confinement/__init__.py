"""How a process of Linux shuts itself in, for runners on nodes and for the check of uploads. Knows neither models nor
Django, and imports nothing of CyxWiz."""
