"""How functions in this process change it, and what is restored."""

from __future__ import annotations

import os
import sys

from local.awslambda.functions import Function
from local.awslambda.inprocess import InProcess
from tests.support.functions import HANDLER, running


async def test_environment_variables_are_restored() -> None:
    """They are set while the functions run."""
    before = dict(os.environ)
    async with running("in process", environment={"PRESENCE_GRACE": "5", "PATH": "/nowhere"}) as functions:
        seen = (await functions.invoke("f", {"do": "tell"}))["environment"]
        assert (seen["PRESENCE_GRACE"], seen["PATH"]) == ("5", "/nowhere")
        assert os.environ["AWS_LAMBDA_FUNCTION_VERSION"] == "$LATEST"
    assert dict(os.environ) == before


async def test_every_environment_has_its_own_copy_of_the_service() -> None:
    """This process keeps the copy that it had."""
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ("shared", "functions")}
    functions = {"a": Function(HANDLER), "b": Function(HANDLER), "route": Function("shared.routes.Schedule")}
    async with InProcess({}, functions=functions) as invoker:
        served = [(await invoker.invoke(name, {"do": "tell"}))["served"] for name in "aab"]
    after = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ("shared", "functions")}
    assert served == [1, 2, 1]
    assert after == before
