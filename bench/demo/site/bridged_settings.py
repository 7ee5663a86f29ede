"""The site's settings with asgibridge's app in them, which has the command ``manage.py bridge``."""

from demosite.settings import *  # noqa: F403
from demosite.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "asgibridge.django"]
