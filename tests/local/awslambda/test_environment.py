"""What a worker receives, and what happens to its output."""

from __future__ import annotations

import os
import sys

import pytest

from local.awslambda.invocation import ROOT
from tests.support.functions import WORKERS, Lines, running

pytestmark = pytest.mark.parametrize("mode", WORKERS)


async def test_a_worker_has_lambdas_variables_only(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has Lambda's variables and the given ones, and inherits almost nothing of this process."""
    monkeypatch.setenv("PRESENCE_JWT_SECRET", "of the developer's shell")
    monkeypatch.setenv("AWS_PROFILE", "the developer's own account")
    given = {"PRESENCE_GRACE": "5", "AWS_ACCESS_KEY_ID": "AKIDLOCAL", "AWS_REGION": "eu-north-1"}
    async with running(mode, environment=given) as functions:
        seen = await functions.invoke("f", {"do": "tell"})
    environment = seen["environment"]
    assert given.items() <= environment.items()
    assert not {"PRESENCE_JWT_SECRET", "AWS_PROFILE", "HOME"} & environment.keys()
    assert environment["AWS_LAMBDA_FUNCTION_NAME"] == "f"
    assert environment["AWS_LAMBDA_FUNCTION_VERSION"] == "$LATEST"
    assert environment["AWS_DEFAULT_REGION"] == "eu-north-1"
    assert environment["AWS_EXECUTION_ENV"] == f"AWS_Lambda_python{sys.version_info[0]}.{sys.version_info[1]}"
    assert environment["PATH"] == os.environ["PATH"]
    assert environment["_X_AMZN_TRACE_ID"].startswith("Root=1-")
    assert seen["memory"] == "512"
    assert seen["directory"] == str(ROOT)


async def test_every_line_is_forwarded_with_the_functions_name(mode: str) -> None:
    """Also a very long line and one without an end."""
    lines = Lines()
    async with running(mode, lines=lines) as functions:
        await functions.invoke("f", {"do": "write", "out": "one\n\ntwo ä\n", "err": "three\n" + "x" * 300_000 + "\n"})
        await lines.until("f", "three")
        await functions.invoke("f", {"do": "write", "out": "the end", "err": ""})
    written = [line for _, line in lines.written]
    assert written[:4] == ["one", "", "two ä", "three"]
    assert "".join(written[4:]) == "x" * 300_000 + "the end"
    assert max(map(len, written)) <= 300_000


async def test_only_the_environment_with_the_event_can_respond(mode: str) -> None:
    """The Runtime API refuses a response to an event that the environment does not have."""
    async with running(mode) as functions:
        assert await functions.invoke("f", {"do": "answer another event"}) == 400
        assert await functions.invoke("f", {"do": "answer", "value": 1}) == 1


async def test_the_input_of_a_handler_is_empty(mode: str) -> None:
    """As in Lambda, its standard input is empty."""
    async with running(mode) as functions:
        assert await functions.invoke("f", {"do": "read"}) == ""
