"""The calls of the HTTP API: what each asks of the service.

Which calls there are, and who may make them, is said in `shared.routes`; what they mean for anybody's presence is said
in `shared.presence`; how a request is let in and read is in `resolver.py`. None of it belongs here. A call's docstring
is its description in the OpenAPI document.
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
from shared.messages import Heartbeat
from shared.presence import Connection
from shared.runtime import now_ms, service, upkeep

MOST_LATE = 60_000
"""Milliseconds by which a user may be settled too late before the service counts as ill: a sweeper works for 150 s and
the next begins within two minutes, so a healthy service is late by a second."""

BLOCKS_ONESELF, HIDES_FROM_ONESELF = "nobody blocks themselves", "nobody hides from themselves"
CONFLICT, TOO_MANY_REQUESTS = HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS


def _refuse_oneself(user_id: str, field: str, users: Sequence[str] | None, words: str) -> None:
    if users and user_id in users:
        raise bad_request([{"field": f"{field}.{users.index(user_id)}", "message": words}])


# Anybody


@call("GET", "/v1/health", answer=requests.Health)
def get_health() -> dict[str, Any]:
    """How the service is; 503 when nobody settles what is due."""
    health = upkeep().health()
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
    """What you may see of up to 100 users, in their order."""
    return {"users": service().get_bulk_presence(me.user_id, query.userIds, me.issued_at)}


@call("POST", "/v1/presence/query", body=requests.UsersQuery, answer=requests.Users)
def post_presence_query(me: Identity, body: requests.UsersQuery) -> dict[str, Any]:
    """The same for ids that an address has no room for."""
    return {"users": service().get_bulk_presence(me.user_id, body.userIds, me.issued_at)}


@call("GET", "/v1/me/contacts/presence", query=requests.SnapshotQuery, answer=requests.ContactsSnapshot)
def get_my_contacts(me: Identity, query: requests.SnapshotQuery) -> dict[str, Any]:
    """Everything that you may see; `resumed` and nobody when nothing is newer than `seq`."""
    return service().get_snapshot(me.user_id, query.seq, me.issued_at)


@call("POST", "/v1/me/heartbeat", body=requests.Poll, answer=requests.PollAnswer, also=(CONFLICT, TOO_MANY_REQUESTS))
def post_my_heartbeat(me: Identity, body: requests.Poll) -> dict[str, Any]:
    """A device that has no WebSocket is still here; answered like `sync`. Poll every `self.heartbeatEvery` ms."""
    heartbeat = Heartbeat(action="heartbeat", active=body.active, status=body.status, seq=body.seq)
    return service().poll(_device(me, body.deviceId, body.deviceType), heartbeat)


@call("POST", "/v1/me/leave", body=requests.Leaving)
def post_my_leave(me: Identity, body: requests.Leaving) -> None:
    """End one of your connections or a polling device, at once or with `grace`. One that is not yours is left alone."""
    connection_id = body.connectionId or _device(me, body.deviceId).id
    service().end_connection(me.user_id, connection_id, me.issued_at, grace=body.grace)


@call("GET", "/v1/me", answer=requests.Me)
def get_me(me: Identity) -> dict[str, Any]:
    """Your own real status with every device, what you hide, and why the status is what it is."""
    return service().inspect_self(me.user_id, me.issued_at)


@call("PUT", "/v1/me/status", body=requests.OwnStatusChange, also=(CONFLICT, TOO_MANY_REQUESTS))
def put_my_status(me: Identity, body: requests.OwnStatusChange) -> None:
    """Choose a claim over all your devices, a custom status, or the status of a polling device."""
    if body.deviceId is None:
        service().set_status(me.user_id, body, me.issued_at)
    else:
        service().update_polling_device(_device(me, body.deviceId), body)


@call("PUT", "/v1/me/privacy", body=requests.OwnPrivacyChange)
def put_my_privacy(me: Identity, body: requests.OwnPrivacyChange) -> None:
    """Change what you hide. What is given replaces what was, the rest stays."""
    _refuse_oneself(me.user_id, "hideFrom", body.hideFrom, HIDES_FROM_ONESELF)
    service().set_privacy(
        me.user_id,
        invisible=body.invisible,
        last_seen=body.lastSeen,
        hide_from=body.hideFrom,
        issued_at=me.issued_at,
    )


@call("PUT", "/v1/me/blocks/{userId}", also=(CONFLICT,))
def put_my_block(me: Identity, userId: str) -> None:  # noqa: N803 - the path's own word
    """Block somebody: neither of you sees the other any more. Whoever is blocked is never told so."""
    if userId == me.user_id:
        raise bad_request([{"field": "userId", "message": BLOCKS_ONESELF}])
    service().set_block(me.user_id, userId, blocked=True, issued_at=me.issued_at)


@call("DELETE", "/v1/me/blocks/{userId}")
def delete_my_block(me: Identity, userId: str) -> None:  # noqa: N803 - the path's own word
    """Block somebody no longer. What else is hidden between you stays hidden."""
    service().set_block(me.user_id, userId, blocked=False, issued_at=me.issued_at)


def _device(me: Identity, device_id: str, device_type: str = "web") -> Connection:
    return Connection.of_polling_device(
        me.user_id,
        device_id,
        device_type=device_type,
        connected_at=now_ms(),
        token_issued_at=me.issued_at,
        token_expires_at=me.expires_at,
    )


# The application's backend


@call("GET", "/v1/graph", query=requests.GraphPageQuery, answer=requests.GraphPage)
def get_graph(query: requests.GraphPageQuery) -> dict[str, Any]:
    """One page of a backup. A user may come in more than one."""
    users, following = service().graph_page(query.cursor)
    return {"users": users, "next": following}


@call("PUT", "/v1/graph", body=requests.GraphState)
def put_graph(body: requests.GraphState) -> None:
    """Privacy and contacts are loaded, or are not any more."""
    service().set_graph_loaded(body.loaded)


@call("GET", "/v1/users/{id}/contacts", answer=requests.Contacts)
def get_contacts(id: str) -> dict[str, Any]:
    """Who may see the user, and whom the user may see."""
    return service().get_user_contacts(id)


@call("PUT", "/v1/users/{id}/contacts", body=requests.ContactsChange, also=(CONFLICT,))
def put_contacts(id: str, body: requests.ContactsChange) -> None:
    """Change who may see the user."""
    _refuse_oneself(id, "add", body.add, "nobody is a contact of themselves")
    service().set_contacts(id, body.add, body.remove, mutual=body.mutual)


@call("GET", "/v1/users/{id}/privacy", answer=requests.Privacy)
def get_privacy(id: str) -> dict[str, Any]:
    """What the user hides, and from whom."""
    return service().get_privacy(id)


@call("PUT", "/v1/users/{id}/privacy", body=requests.PrivacyChange)
def put_privacy(id: str, body: requests.PrivacyChange) -> None:
    """Change what the user hides. What is given replaces what was, the rest stays."""
    _refuse_oneself(id, "hideFrom", body.hideFrom, HIDES_FROM_ONESELF)
    _refuse_oneself(id, "blocks", body.blocks, BLOCKS_ONESELF)
    service().set_privacy(
        id, invisible=body.invisible, last_seen=body.lastSeen, hide_from=body.hideFrom, blocks=body.blocks
    )


@call("PUT", "/v1/users/{id}/status", body=requests.UserStatusChange)
def put_status(id: str, body: requests.UserStatusChange) -> None:
    """Choose a claim or a custom status for the user."""
    service().set_status(id, body)


@call("GET", "/v1/users/{id}/presence", answer=requests.InspectedUser)
def get_user_presence(id: str) -> dict[str, Any]:
    """The user's real state, and why it is so."""
    return service().inspect_user(id)


@call("POST", "/v1/users/{id}/disconnect", answer=requests.SignedOutEverywhere)
def post_disconnect(id: str) -> dict[str, Any]:
    """Sign the user out everywhere: close every connection and refuse tokens issued before."""
    return {"closed": service().sign_out(id)}


@call("DELETE", "/v1/users/{id}")
def delete_user(id: str) -> None:
    """Erase everything kept about the user, in what is kept of others too. May be done again."""
    service().erase_user(id)
