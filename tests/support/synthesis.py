"""A synthesis like that of `make synth`, but without the CDK's command line: it runs the app as a process, offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:redis-AbCdEf"
MODES = {"public": {}, "vpc": {"cache": "vpc"}, "url": {"cache": "url", "redis_url_secret": SECRET}}
"""The context of each value of the option `cache`."""


@dataclass(frozen=True, slots=True)
class Synthesis:
    """The output of a synthesis."""

    folder: Path
    template: dict[str, Any]

    def resources(self, kind: str) -> dict[str, dict[str, Any]]:
        """The properties of all resources of a type, by logical id."""
        return {
            name: resource.get("Properties", {})
            for name, resource in self.template["Resources"].items()
            if resource["Type"] == kind
        }

    def report(self) -> dict[str, Any]:
        """The findings of the checks, by plugin name."""
        report = json.loads((self.folder / "validation-report.json").read_text())
        return {plugin["pluginName"]: plugin for plugin in report["pluginReports"]}


def attempt(folder: Path, **context: str) -> subprocess.CompletedProcess[str]:
    """Run the app and return the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "infra.app"],
        cwd=ROOT,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CDK_"))},
            # Node.js of the infra lock, as in the Makefile.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "CDK_CONTEXT_JSON": json.dumps({**json.loads((ROOT / "cdk.json").read_text())["context"], **context}),
            "CDK_OUTDIR": str(folder),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def synthesize(folder: Path, **context: str) -> Synthesis:
    """Run the app, which must succeed, and return its output."""
    done = attempt(folder, **context)
    assert done.returncode == 0, done.stderr
    stack = context.get("stack", "Presence")
    return Synthesis(folder, json.loads((folder / f"{stack}.template.json").read_text()))
