#!/usr/bin/env python
"""Django's command line for the site, on the event loop that BOARD_LOOP names."""

import asyncio
import os
import sys
import warnings

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "board.settings")
    if os.environ.get("BOARD_LOOP") == "uvloop":
        import uvloop

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # policies go, in 3.16
            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
