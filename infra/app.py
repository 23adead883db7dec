"""The CDK app, as `cdk.json` starts it: reads the context, builds the bundle, makes the one stack, checks it."""

from __future__ import annotations

import sys
from pathlib import Path

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks

from infra import bundle
from infra.options import Options, OptionsError
from infra.stack import PresenceStack

BUILD = Path(__file__).parent.parent / "build"


def main() -> str | None:
    """Synthesise into `cdk.out`; returns what was wrong, if something was."""
    app = cdk.App()
    try:
        options = Options.of(app.node.get_all_context())
        built = bundle.build(BUILD, options.architecture, options.python)
    except (OptionsError, bundle.BundleError) as error:
        return f"cdk: {error}"
    for part, folder in (("code", built.code), ("layer", built.layer)):
        print(f"{part}: {bundle.size(folder) / 1e6:.1f} MB", file=sys.stderr)  # noqa: T201
    if not built.compiled:
        print(f"no Python {options.python} here: the functions will start more slowly", file=sys.stderr)  # noqa: T201
    PresenceStack(app, options, built)
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    try:
        app.synth()
    except RuntimeError as error:  # what jsii makes of everything
        if "ValidationFailed" not in str(error):
            raise
        return "cdk: the checks above object; infra/rules.py lists what they may object to"
    return None


if __name__ == "__main__":
    sys.exit(main())
