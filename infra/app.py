"""The CDK app that `cdk.json` starts: it reads the context, builds the bundle, creates the stack and checks it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks

from infra import bundle
from infra.options import Options, OptionsError
from infra.stack import PresenceStack

BUILD = Path(__file__).parent.parent / "build"


def main() -> str | None:
    """Synthesize into `cdk.out`. Returns an error message if the options are wrong or the bundle cannot be built."""
    app = cdk.App()
    try:
        options = Options.of(app.node.get_all_context())
        built = bundle.build(BUILD, options.architecture, options.python)
    except (OptionsError, bundle.BundleError) as error:
        return f"cdk: {error}"
    for line in _about(options, built):
        print(line, file=sys.stderr)  # noqa: T201 - stdout belongs to the output of the CDK's command line
    PresenceStack(app, options, built)
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    app.synth()
    return None


def _about(options: Options, built: bundle.Bundle) -> Iterator[str]:
    """What an operator should see before deploying, the options above all: an omitted option reverts to its default."""
    chosen = options.model_dump(exclude={"settings"}, exclude_defaults=True)
    chosen |= options.settings.model_dump(exclude_unset=True)
    yield f"options: {' '.join(f'{name}={value}' for name, value in chosen.items()) or 'none'}"
    yield f"code: {bundle.size(built.code) / 1e6:.1f} MB, layer: {bundle.size(built.layer) / 1e6:.1f} MB"
    if not built.compiled:
        yield f"no Python {options.python} found, so the bundle has no bytecode and functions start more slowly"


if __name__ == "__main__":
    sys.exit(main())
