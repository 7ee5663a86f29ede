"""What each value of the setting ASGIBRIDGE does. Reads a list of settings in JSON from its words.

Prints for each the policy, whether calls are timed, whether top-level ones share a loop, the
watch's seconds and Django's part; or the error.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from asgibridge import debug, runners, workers
from asgibridge._loops import shared
from asgibridge._workers import stats
from asgibridge.django import configuration


def outcome(value: Any) -> dict[str, Any]:
    before = dict(os.environ)
    configuration._applied.clear()
    workers.set_policy(workers.policy_of(os.environ))
    workers.collect_timings(False)
    debug.unwatch()
    runners.shared_loop().switch_off()
    with override_settings(ASGIBRIDGE=value):
        try:
            configuration.apply()
        except ImproperlyConfigured as error:
            done = {"error": str(error)}
        else:
            done = {"of_django": vars(configuration.current())}
    assert dict(os.environ) == before
    watcher = debug._watcher
    return {
        **done,
        "policy": repr(workers.get_policy()),
        "timings": stats._wanted,
        "shares a loop": shared.in_force is not None,
        "watch": watcher and watcher.seconds,
    }


if __name__ == "__main__":
    django.setup()
    print(json.dumps([outcome(value) for value in json.loads(sys.argv[1])]))
