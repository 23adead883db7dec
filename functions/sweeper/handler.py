"""Each minute: settle users who are due, until the next run has taken over."""

from __future__ import annotations

import time
from typing import Any

from shared.environment import service
from shared.events import Event
from shared.runtime import entrypoint


@entrypoint
def handler(event: Event, context: Any) -> dict[str, Any]:
    return {"settled": service().cleanup_stale_connections(context.aws_request_id, time.sleep)}
