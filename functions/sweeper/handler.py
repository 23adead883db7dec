"""Each minute: settle what silence left behind, until the next run has taken over."""

from __future__ import annotations

import time
from typing import Any

from shared.events import Event
from shared.runtime import entrypoint, upkeep


@entrypoint
def handler(event: Event, context: Any) -> dict[str, Any]:
    return {"settled": upkeep().cleanup_stale_connections(context.aws_request_id, time.sleep)}
