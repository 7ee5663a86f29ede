"""For ``INSTALLED_APPS = ["asgibridge.django"]``: the setting, the checks, ``manage.py bridge``."""

from __future__ import annotations

import logging

from django.apps import AppConfig
from django.core.checks import Tags, register
from django.core.exceptions import ImproperlyConfigured

from . import checks, configuration

logger = logging.getLogger("asgibridge.django")


class AsgibridgeConfig(AppConfig):
    """Has no models. Its name in the checks and in the registry is ``asgibridge``."""

    name = "asgibridge.django"
    label = "asgibridge"
    verbose_name = "asgibridge"

    def ready(self) -> None:
        """Set the workers as the setting asks for, and register the checks.

        A setting that is wrong is logged here: were it raised, the check that explains it would not
        run. `get_asgi_application` raises it.
        """
        for check in checks.CHECKS:
            register(check)
        register(checks.connections, Tags.database)
        try:
            configuration.apply()
        except ImproperlyConfigured as error:
            logger.error("nothing of the setting is in force: %s", error)
