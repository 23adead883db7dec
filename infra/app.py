"""The CDK app, as `cdk.json` starts it: reads the context, builds the bundle, makes the one stack, checks it."""

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
    """Synthesise into `cdk.out`; returns what was wrong, if something was."""
    app = cdk.App()
    try:
        options = Options.of(app.node.get_all_context())
        built = bundle.build(BUILD, options.architecture, options.python)
    except (OptionsError, bundle.BundleError) as error:
        return f"cdk: {error}"
    for line in _about(options, built):
        print(line, file=sys.stderr)  # noqa: T201 - stdout is for what the CDK's command line is asked for
    PresenceStack(app, options, built)
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    app.synth()
    return None


def _about(options: Options, built: bundle.Bundle) -> Iterator[str]:
    """What an operator should see before it is deployed: a choice that was forgotten is one that was made anew."""
    chosen = options.model_dump(exclude={"settings"}, exclude_defaults=True)
    chosen |= options.settings.model_dump(exclude_unset=True)
    yield f"choices: {' '.join(f'{name}={value}' for name, value in chosen.items()) or 'none'}"
    yield f"code: {bundle.size(built.code) / 1e6:.1f} MB, layer: {bundle.size(built.layer) / 1e6:.1f} MB"
    if not built.compiled:
        yield f"no Python {options.python} here, and so no bytecode: the functions will start more slowly"


if __name__ == "__main__":
    sys.exit(main())
