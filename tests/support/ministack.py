"""MiniStack, a third-party AWS emulator, as a separate process on loopback. Its code runs and is never imported.

with MiniStack.start(directory) as aws:
    keys = aws.user("operator", {"Effect": "Allow", "Action": "*", "Resource": "*"})
    aws.environment(keys)          # variables for AWS's tools, as that user
    aws.client("lambda", keys)     # a boto3 client, as that user

It verifies signatures, evaluates policies, and runs functions as child processes with its own Python.
`ministack_differences.py` lists where it differs from AWS.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import boto3
from botocore.config import Config

from local.elasticache import HOST, free_port
from local.iam import KeyPair
from tests.support.presence_run import await_gone, descendants

ROOT = Path(__file__).parent.parent.parent
PYTHON = ROOT / ".venv-ministack" / "bin" / "python"
VERSION = "1.5.33"
"""The version that `ministack_differences.py` describes."""
ACCOUNT = "123456789012"
REGION = "eu-west-1"
START_LIMIT = 60.0
"""Seconds that it may take to start: it takes one on an idle machine."""
CONFIG = Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 1})


class MiniStack:
    """A running MiniStack with an empty account; a context manager that ends it and all its functions.

    It cannot outlive this process: a shell reads from a pipe, and kills it with its children when the pipe closes.
    The system closes the pipe however this process ends.
    """

    def __init__(self, directory: Path, port: int) -> None:
        self.url = f"http://{HOST}:{port}"
        self.log = directory / "log"
        self.root = KeyPair.create()
        """These credentials may do anything, and their signatures are not verified."""
        self._port = port
        environment = {
            "PATH": os.environ["PATH"],  # Nothing else of ours: functions inherit this environment.
            "HOME": str(directory),
            "TMPDIR": str(directory),
            "STATE_DIR": str(directory / "state"),
            "S3_DATA_DIR": str(directory / "s3"),
            "AUTH": "true",
            "BIND_HOST": HOST,
            "GATEWAY_PORT": str(port),
            "IOT_MTLS_ENABLED": "0",  # It would listen on a port that we cannot choose.
            "SFTP_ENABLED": "0",
            "MINISTACK_ACCOUNT_ID": ACCOUNT,
            "MINISTACK_REGION": REGION,
            "AWS_ACCESS_KEY_ID": self.root.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.root.secret_access_key,
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [PYTHON, "-I", "-m", "ministack"],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; kill -KILL "-$0"', str(self._process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Start one with its files in this directory; check that it is the expected version and verifies signatures."""
        assert PYTHON.exists(), f"{PYTHON} is missing: `make test` installs it"
        tries = 3  # Between finding a free port and using it, another process may take it.
        while True:
            aws = cls(directory, free_port())
            try:
                aws._check()
            except BaseException as error:
                aws.stop()
                tries -= 1
                if tries == 0 or not isinstance(error, AssertionError):
                    raise
            else:
                return aws

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it and its running functions. It has nothing to save."""
        functions = self.functions()
        self._guard.communicate()
        self._process.wait()
        left = await_gone(functions)
        assert left == set(), f"functions are still running: {left}"

    def functions(self) -> set[int]:
        """The ids of the processes in which functions run."""
        return descendants(self._process.pid)

    def last_output(self) -> str:
        """The end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def python_version(self) -> str:
        """The Python version of its functions, like 3.13."""
        version = "import sys; print('%d.%d' % sys.version_info[:2])"
        return subprocess.run([PYTHON, "-I", "-c", version], capture_output=True, text=True, check=True).stdout.strip()

    def user(self, name: str, *statements: Mapping[str, Any]) -> KeyPair:
        """Create an IAM user with a policy of these statements; returns an access key."""
        iam = self.client("iam", self.root)
        iam.create_user(UserName=name)
        if statements:
            document = json.dumps({"Version": "2012-10-17", "Statement": statements})
            iam.put_user_policy(UserName=name, PolicyName="may", PolicyDocument=document)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return KeyPair(key["AccessKeyId"], key["SecretAccessKey"])

    def client(self, service: str, keys: KeyPair) -> Any:
        """AWS's own client for a service."""
        return boto3.session.Session().client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=keys.access_key_id,
            aws_secret_access_key=keys.secret_access_key,
            config=CONFIG,
        )

    def environment(self, keys: KeyPair) -> dict[str, str]:
        """The variables that point AWS's tools here as a user, whatever this machine's configuration."""
        inherited = {n: v for n, v in os.environ.items() if not n.startswith(("AWS_", "PRESENCE_", "CDK_"))}
        return inherited | {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": keys.access_key_id,
            "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
            "AWS_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of an unauthenticated request."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as response:  # noqa: S310 - http, as above
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def _check(self) -> None:
        assert self._is_ready(), f"MiniStack did not start: {self.last_output()}"
        _, about = self.get("/_ministack/health")
        assert (about["version"], about["auth"]) == (VERSION, "enabled")
        status, _ = self.get("/?Action=ListUsers&Version=2010-05-08")
        assert status == 403, f"an unsigned request to IAM returned {status}"

    def _is_ready(self) -> bool:
        until = time.monotonic() + START_LIMIT
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(OSError):
                if listens(self._process.pid, self._port) and self.get("/_ministack/ready")[0] == 200:
                    return True
            time.sleep(0.05)
        return False


def listens(pid: int, port: int) -> bool:
    """Whether this very process listens on a port of the loopback interface."""
    table = Path(f"/proc/{pid}/net/tcp")
    if not table.exists():  # not Linux
        command = ["lsof", "-nP", f"-iTCP@{HOST}:{port}", "-sTCP:LISTEN", "-t"]
        output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return output.split() == [str(pid)]
    rows = (line.split() for line in table.read_text().splitlines())
    # The kernel writes 127.0.0.1 in hex, and 0A for "listens"; a socket's owner is the process that has its inode open.
    inodes = {row[9] for row in rows if (row[1], row[3]) == (f"0100007F:{port:04X}", "0A")}
    opened = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            opened.add(str(descriptor.readlink()))
    return bool(inodes) and {f"socket:[{inode}]" for inode in inodes} <= opened
