"""Values of a CloudFormation template as text in one line.

- References stand in braces: `{Resource}`, `{Resource.Attribute}`, `{Region}` for `AWS::Region`. A logical id loses its
  hash in a reference, unless two resources would then have the same name.
- `{StackId/2-0}` is part 2 of the stack id split at `/`, and of that part 0 split at `-`.
- `arn:SERVICE:…` is an ARN in the stack's own partition, region and account. `invoke FUNCTION` is the URI through which
  API Gateway invokes a function.
- The hash of an asset becomes `HASH`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

ASSET = re.compile(r"\b[0-9a-f]{64}\b")
LOGICAL_ID_HASH = re.compile(r"[0-9A-F]{8}$")
PAIR = {"Key", "Name", "Value"}
"""A tag has a key and a value, the dimension of a metric a name and a value."""

ABBREVIATIONS = (
    (
        re.compile(r"arn:\{Partition\}:apigateway:\{Region\}:lambda:path/2015-03-31/functions/(\S+)/invocations"),
        r"invoke \1",
    ),
    (re.compile(r"arn:\{Partition\}:([a-z-]+):\{Region\}:\{AccountId\}:"), r"arn:\1:"),
)


def shortened(template: Mapping[str, Any]) -> Any:
    """The template with short names in all references."""
    short = {logical_id: LOGICAL_ID_HASH.sub("", logical_id) for logical_id in template["Resources"]}
    counts = Counter(short.values())
    unique = {logical_id: name for logical_id, name in short.items() if counts[name] == 1}
    return _renamed(template, unique)


def _renamed(node: Any, names: Mapping[str, str]) -> Any:
    if isinstance(node, list):
        return [_renamed(each, names) for each in node]
    if not isinstance(node, Mapping):
        return node
    if node.keys() == {"Ref"}:
        return {"Ref": names.get(node["Ref"], node["Ref"])}
    if node.keys() == {"Fn::GetAtt"}:
        target, *attribute = node["Fn::GetAtt"]
        return {"Fn::GetAtt": [names.get(target, target), *attribute]}
    return {key: _renamed(each, names) for key, each in node.items()}


def is_function(value: Mapping[str, Any]) -> bool:
    """Whether it is a reference, or another function of CloudFormation."""
    return len(value) == 1 and (next(iter(value)) == "Ref" or next(iter(value)).startswith("Fn::"))


def text(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, Mapping):
        if is_function(value):
            return _reference(*next(iter(value.items())))
        return "{" + ", ".join(f"{key}: {text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        if value and all(isinstance(each, Mapping) and {"Value"} < each.keys() <= PAIR for each in value):
            return ", ".join(f"{each.get('Name') or each.get('Key')}={text(each['Value'])}" for each in value)
        return "[" + ", ".join(map(text, value)) + "]"
    if isinstance(value, str):
        return ASSET.sub("HASH", value)
    return json.dumps(value)


def listed(value: Any) -> str:
    """A value, or a list of values without brackets."""
    return ", ".join(map(text, value)) if isinstance(value, list) else text(value)


def _reference(function: str, argument: Any) -> str:
    """A reference, or another function of CloudFormation's."""
    if function == "Ref":
        return "{" + str(argument).removeprefix("AWS::") + "}"
    if function == "Fn::GetAtt":
        return "{" + ".".join(map(text, argument)) + "}"
    if function == "Fn::Sub" and isinstance(argument, str):
        return text(argument.replace("${AWS::", "{"))
    if function == "Fn::Join" and argument[0] == "":
        joined = "".join(map(text, argument[1]))
        for long, short in ABBREVIATIONS:
            joined = long.sub(short, joined)
        return joined
    if function == "Fn::Select" and isinstance(argument[1], Mapping) and "Fn::Split" in argument[1]:
        separator, source = argument[1]["Fn::Split"]
        return "{" + f"{text(source).strip('{}')}{separator}{argument[0]}" + "}"
    return "{" + f"{function.removeprefix('Fn::')} {text(argument)}" + "}"
