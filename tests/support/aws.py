"""CloudFormation and Secrets Manager on loopback, as far as an operator's tools use them and AWS documents them.

    with Aws() as aws:
        aws.deploy("Presence", {"HttpUrl": "http://…"}, secret="…")   # the secret's ARN is the output TokenSecretArn
        aws.stacks["Presence"].status = "ROLLBACK_COMPLETE"
        aws.environment                                               # what leads a program here

It serves the stacks and secrets that a test created, and STS's GetCallerIdentity.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from cli.backend import REGION
from local.iam import KeyPair

ACCOUNT = "123456789012"


@dataclass
class Stack:
    """A stack as CloudFormation describes it."""

    name: str
    outputs: dict[str, str]
    status: str = "CREATE_COMPLETE"
    why: str = ""

    def document(self) -> str:
        """The response to DescribeStacks."""
        outputs = "".join(
            f"<member><OutputKey>{key}</OutputKey><OutputValue>{escape(value)}</OutputValue></member>"
            for key, value in self.outputs.items()
        )
        return (
            "<DescribeStacksResponse><DescribeStacksResult><Stacks><member>"
            f"<StackName>{self.name}</StackName><CreationTime>2026-11-24T00:00:00Z</CreationTime>"
            f"<StackStatus>{self.status}</StackStatus><StackStatusReason>{escape(self.why)}</StackStatusReason>"
            f"<Outputs>{outputs}</Outputs>"
            "</member></Stacks></DescribeStacksResult></DescribeStacksResponse>"
        )


class Aws:
    """An account, in the region that requests to this machine are signed for.

    Only requests signed with `keys` are accepted.
    """

    def __init__(self, keys: KeyPair | None = None) -> None:
        self.keys = keys or KeyPair.create()
        self.stacks: dict[str, Stack] = {}
        self.secrets: dict[str, str] = {}
        self._httpd = _Httpd(("127.0.0.1", 0), _Handler)
        self._httpd.aws = self
        self._thread = threading.Thread(target=self._httpd.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._httpd.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._httpd.shutdown()
        self._httpd.server_close()
        self._thread.join()

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which AWS's tools find this server, and its operator's keys."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.keys.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.keys.secret_access_key,
            "AWS_REGION": REGION,
        }

    def deploy(self, name: str, outputs: Mapping[str, str], secret: str = "") -> Stack:
        """Create a stack with these outputs and, if given, a secret."""
        stack = self.stacks[name] = Stack(name, dict(outputs))
        if secret:
            arn = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{name}-AbCdEf"
            self.secrets[arn] = secret
            stack.outputs["TokenSecretArn"] = arn
        return stack

    def answer(self, authorization: str, action: str, body: str) -> tuple[int, str]:
        """Status and body of the response to a signed request."""
        scope = re.match(r"AWS4-HMAC-SHA256 Credential=(\w+)/\d{8}/([a-z0-9-]+)/(\w+)/aws4_request", authorization)
        if scope is None or scope[1] != self.keys.access_key_id:
            return _fault(action, 403, "InvalidClientTokenId", "The security token included in the request is invalid.")
        if action == "secretsmanager.GetSecretValue":
            assert scope.groups()[1:] == (REGION, "secretsmanager")
            arn = json.loads(body)["SecretId"]
            if arn not in self.secrets:
                return _fault(action, 400, "AccessDeniedException", "You may not read this secret.")
            return 200, json.dumps({"ARN": arn, "SecretString": self.secrets[arn]})
        parameters = {name: values[0] for name, values in parse_qs(body).items()}
        if parameters["Action"] == "GetCallerIdentity":
            account = f"<GetCallerIdentityResult><Account>{ACCOUNT}</Account></GetCallerIdentityResult>"
            return 200, f"<GetCallerIdentityResponse>{account}</GetCallerIdentityResponse>"
        assert parameters["Action"] == "DescribeStacks"
        stack = self.stacks.get(parameters["StackName"]) if scope[2] == REGION else None
        if stack is None:
            message = f"Stack with id {parameters['StackName']} does not exist"
            return _fault(action, 400, "ValidationError", message)
        return 200, stack.document()


def _fault(action: str, status: int, code: str, message: str) -> tuple[int, str]:
    if action:  # AWS's JSON protocol names the action in a header, the query protocol in the body.
        return status, json.dumps({"__type": code, "Message": message})
    fault = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    return status, f"<ErrorResponse>{fault}<RequestId>r</RequestId></ErrorResponse>"


class _Httpd(ThreadingHTTPServer):
    aws: Aws
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    server: _Httpd

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        authorization, action = self.headers.get("Authorization", ""), self.headers.get("X-Amz-Target", "")
        status, text = self.server.aws.answer(authorization, action, body)
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests check responses, not a log."""
