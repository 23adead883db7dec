"""The calls of the HTTP API: what each asks of the service. A call's docstring is its description in OpenAPI.

Which calls there are, and who may make them, is in `shared.routes`; what they mean for presence is in
`shared.presence`; how a request is authenticated and parsed is in `resolver.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aws_lambda_powertools.event_handler import Response

from functions.api import requests
from functions.api.problems import Problem, bad_request
from functions.api.resolver import call
from shared.auth import Identity
from shared.connection import Connection
from shared.environment import service
from shared.frames import ContactsSnapshot, InspectedUser, Me, SnapshotFrame
from shared.messages import Heartbeat
from shared.responses import DeviceType
from shared.runtime import now_ms

MOST_LATE = 60_000
"""Milliseconds of lateness after which the service counts as unhealthy. A sweeper works for 150 s and the next begins
within two minutes, so a healthy service is late by a second."""

BLOCKS_ONESELF, HIDES_FROM_ONESELF = "nobody blocks themselves", "nobody hides from themselves"
CONFLICT = HTTPStatus.CONFLICT


def _refuse_oneself(user_id: str, field: str, users: Sequence[str] | None, words: str) -> None:
    if users and user_id in users:
        raise bad_request([{"field": f"{field}.{users.index(user_id)}", "message": words}])


# Anybody


@call("GET", "/v1/health", answer=requests.Health)
def get_health() -> dict[str, Any]:
    """The service's health; 503 when no sweeper settles the users who are due, or part of the store does not answer."""
    health = service().upkeep.health()
    if unavailable := health.get("unavailableBuckets"):
        parts = f"{len(unavailable)} of the store's buckets do not answer: is a node down, or a slot moving?"
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, parts, retry_after=60, **health)
    if health["dueLate"] > MOST_LATE:
        late = f"somebody should have been settled {health['dueLate'] // 1000} s ago: does the sweeper run?"
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, late, retry_after=60, **health)
    return health


@call("GET", "/v1/openapi.json", answer=dict[str, Any])
def get_openapi() -> Response[str]:
    """This document."""
    # `make schemas` generates the file from the calls below and their types.
    text = Path(__file__).with_name("openapi.json").read_text("utf-8")
    return Response(HTTPStatus.OK.value, content_type="application/json", body=text)


# Users


@call("GET", "/v1/presence", query=requests.UsersParameter, answer=requests.Users)
def get_presence(me: Identity, query: requests.UsersParameter) -> dict[str, Any]:
    """What you may see of up to 100 users, in the order of the request."""
    return {"users": service().get_bulk_presence(me.user_id, query.userIds, me.issued_at)}


@call("POST", "/v1/presence/query", body=requests.UsersQuery, answer=requests.Users)
def post_presence_query(me: Identity, body: requests.UsersQuery) -> dict[str, Any]:
    """The same with the ids in a body, where a URL would be too long."""
    return {"users": service().get_bulk_presence(me.user_id, body.userIds, me.issued_at)}


@call("GET", "/v1/me/contacts/presence", query=requests.SnapshotQuery, answer=ContactsSnapshot)
def get_my_contacts(me: Identity, query: requests.SnapshotQuery) -> ContactsSnapshot:
    """Everything that you may see. If nothing changed since `seq`, returns `resumed: true` and no users."""
    return service().get_snapshot(me.user_id, query.seq, me.issued_at)


@call("POST", "/v1/me/heartbeat", body=requests.Poll, answer=requests.PollAnswer, also=(CONFLICT,))
def post_my_heartbeat(me: Identity, body: requests.Poll) -> SnapshotFrame:
    """A device without a WebSocket is still here; answered like `sync`. Poll every `self.heartbeatEvery` ms."""
    heartbeat = Heartbeat(action="heartbeat", active=body.active, status=body.status, seq=body.seq, n=body.n)
    return service().poll(_device(me, body.deviceId, body.deviceType), heartbeat)


@call("POST", "/v1/me/leave", body=requests.Leaving)
def post_my_leave(me: Identity, body: requests.Leaving) -> None:
    """End one of your connections or polling devices, immediately or with `grace`. Others' connections are ignored."""
    connection_id = body.connectionId or _device(me, body.deviceId).id
    service().end_connection(me.user_id, connection_id, me.issued_at, grace=body.grace)


@call("GET", "/v1/me", answer=Me)
def get_me(me: Identity) -> Me:
    """Your own real status with every device, what you hide, and why the status is what it is."""
    return service().inspect_self(me.user_id, me.issued_at)


@call("PUT", "/v1/me/status", body=requests.OwnStatusChange, also=(CONFLICT,))
def put_my_status(me: Identity, body: requests.OwnStatusChange) -> None:
    """Choose a claim over all your devices, a custom status, or the status of a polling device."""
    if body.deviceId is None:
        service().set_status(me.user_id, body, me.issued_at)
    else:
        service().update_polling_device(_device(me, body.deviceId), body)


@call("PUT", "/v1/me/privacy", body=requests.OwnPrivacyChange)
def put_my_privacy(me: Identity, body: requests.OwnPrivacyChange) -> None:
    """Change what you hide. A given field replaces the earlier value; other fields stay."""
    _refuse_oneself(me.user_id, "hideFrom", body.hideFrom, HIDES_FROM_ONESELF)
    service().contacts.set_privacy(
        me.user_id,
        invisible=body.invisible,
        last_seen=body.lastSeen,
        hide_from=body.hideFrom,
        issued_at=me.issued_at,
    )


@call("PUT", "/v1/me/blocks/{userId}", also=(CONFLICT,))
def put_my_block(me: Identity, userId: str) -> None:  # noqa: N803 - the path's own word
    """Block a user: neither of you sees the other any more. The blocked user is not informed."""
    if userId == me.user_id:
        raise bad_request([{"field": "userId", "message": BLOCKS_ONESELF}])
    service().contacts.set_block(me.user_id, userId, blocked=True, issued_at=me.issued_at)


@call("DELETE", "/v1/me/blocks/{userId}")
def delete_my_block(me: Identity, userId: str) -> None:  # noqa: N803 - the path's own word
    """Unblock a user. Anything else hidden between you stays hidden."""
    service().contacts.set_block(me.user_id, userId, blocked=False, issued_at=me.issued_at)


def _device(me: Identity, device_id: str, device_type: DeviceType = "web") -> Connection:
    return Connection.of_polling_device(
        me.user_id,
        device_id,
        device_type,
        now=now_ms(),
        issued_at=me.issued_at,
        expires_at=me.expires_at,
    )


# The application's backend


@call("GET", "/v1/graph", query=requests.GraphPageQuery, answer=requests.GraphPage)
def get_graph(query: requests.GraphPageQuery) -> dict[str, Any]:
    """One page of a backup. A user may be on more than one page."""
    users, following = service().contacts.graph_page(query.cursor)
    return {"users": users, "next": following}


@call("PUT", "/v1/graph", body=requests.GraphState)
def put_graph(body: requests.GraphState) -> None:
    """Mark privacy and contacts as loaded, or as not loaded."""
    service().contacts.set_graph_loaded(body.loaded)


@call("GET", "/v1/users/{id}/contacts", answer=requests.Contacts)
def get_contacts(id: str) -> dict[str, Any]:
    """Who may see the user, and whom the user may see."""
    return service().get_user_contacts(id)


@call("PUT", "/v1/users/{id}/contacts", body=requests.ContactsChange, also=(CONFLICT,))
def put_contacts(id: str, body: requests.ContactsChange) -> None:
    """Change who may see the user."""
    _refuse_oneself(id, "add", body.add, "nobody is a contact of themselves")
    service().contacts.change(id, body.add, body.remove, mutual=body.mutual)


@call("GET", "/v1/users/{id}/privacy", answer=requests.Privacy)
def get_privacy(id: str) -> dict[str, Any]:
    """What the user hides, and from whom."""
    return service().contacts.get_privacy(id)


@call("PUT", "/v1/users/{id}/privacy", body=requests.PrivacyChange)
def put_privacy(id: str, body: requests.PrivacyChange) -> None:
    """Change what the user hides. A given field replaces the earlier value; other fields stay."""
    _refuse_oneself(id, "hideFrom", body.hideFrom, HIDES_FROM_ONESELF)
    _refuse_oneself(id, "blocks", body.blocks, BLOCKS_ONESELF)
    service().contacts.set_privacy(
        id, invisible=body.invisible, last_seen=body.lastSeen, hide_from=body.hideFrom, blocks=body.blocks
    )


@call("PUT", "/v1/users/{id}/status", body=requests.UserStatusChange)
def put_status(id: str, body: requests.UserStatusChange) -> None:
    """Choose a claim or a custom status for the user."""
    service().set_status(id, body)


@call("GET", "/v1/users/{id}/presence", answer=InspectedUser)
def get_user_presence(id: str) -> InspectedUser:
    """The user's real state, and why it is so."""
    return service().inspect_user(id)


@call("POST", "/v1/users/{id}/disconnect", answer=requests.SignedOutEverywhere)
def post_disconnect(id: str) -> dict[str, Any]:
    """Sign the user out everywhere: close every connection and refuse tokens issued before."""
    return {"closed": service().sign_out(id)}


@call("DELETE", "/v1/users/{id}")
def delete_user(id: str) -> None:
    """Erase everything stored about the user, in other users' records, too. May be repeated."""
    service().contacts.erase_user(id)
