"""What running the functions in this process changes here, and what it leaves as it was."""

from __future__ import annotations

import os
import sys

from local.awslambda.functions import Function
from local.awslambda.inprocess import InProcess
from tests.support.functions import HANDLER, running


async def test_the_environment_is_set_while_the_functions_run_and_restored_afterwards() -> None:
    """The environment is set while the functions run, and restored afterwards."""
    before = dict(os.environ)
    async with running("in process", environment={"PRESENCE_GRACE": "5", "PATH": "/nowhere"}) as functions:
        seen = (await functions.invoke("f", {"do": "tell"}))["environment"]
        assert (seen["PRESENCE_GRACE"], seen["PATH"]) == ("5", "/nowhere")
        assert os.environ["AWS_LAMBDA_FUNCTION_VERSION"] == "$LATEST"
    assert dict(os.environ) == before


async def test_every_sandbox_has_its_own_copy_of_the_service_and_this_process_keeps_its_own() -> None:
    """Every sandbox has its own copy of the service's modules, and this process keeps the one it had."""
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ("shared", "functions")}
    functions = {"a": Function(HANDLER), "b": Function(HANDLER), "route": Function("shared.routes.Schedule")}
    async with InProcess({}, functions=functions) as invoker:
        served = [(await invoker.invoke(name, {"do": "tell"}))["served"] for name in "aab"]
    after = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ("shared", "functions")}
    assert served == [1, 2, 1]
    assert after == before
