"""The CDK's command line, as the Makefile runs it, against the AWS that the environment names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CLI = ROOT / "infra" / "cdk-cli" / "node_modules" / ".bin" / "cdk"
LIMIT = 240.0
"""Seconds that a command may take: a synthesis takes ten on an idle machine."""


class Cdk:
    """Runs commands.

    Args:
        environment: the variables that point AWS's tools to an account.
        directory: the working directory; commands that need no app run faster outside of one.
    """

    def __init__(self, environment: Mapping[str, str], directory: Path = ROOT) -> None:
        assert CLI.exists(), f"{CLI} is missing: `make test` installs it"
        self._directory = directory
        self._environment = {
            **environment,
            # Node.js of the infra lock, as in the Makefile.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
            "CDK_DISABLE_CLI_TELEMETRY": "true",
            "CDK_DISABLE_VERSION_CHECK": "true",
        }

    def __call__(self, *arguments: str | Path) -> str:
        """Run a command, which must succeed; returns its output."""
        done = subprocess.run(
            [CLI, *arguments, "--no-notices", "--no-color"],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout
