"""What an IAM policy document allows: the rules of AWS for identity policies, as far as ours go.

Allowed is what some statement allows and none denies. A statement holds if its action and resource match and all of its
conditions do. https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

AWS = Path(__file__).resolve().parents[2] / "infra" / "aws"
OPERATORS = ("StringEquals", "ArnEquals")


def read_policy(name: str) -> dict[str, Any]:
    """The document `infra/aws/NAME.json`."""
    policy: dict[str, Any] = json.loads((AWS / f"{name}.json").read_text(encoding="utf-8"))
    return policy


def as_list(value: str | list[str]) -> list[str]:
    """One or several, as a list."""
    return [value] if isinstance(value, str) else value


def allows(policy: Mapping[str, Any], action: str, resource: str, context: Mapping[str, str] | None = None) -> bool:
    """Whether a request passes; `context` has its condition keys."""
    effects = {
        statement["Effect"] for statement in policy["Statement"] if holds(statement, action, resource, context or {})
    }
    return effects == {"Allow"}


def holds(statement: Mapping[str, Any], action: str, resource: str, context: Mapping[str, str]) -> bool:
    """Whether a statement is about a request."""
    if not any(fnmatchcase(action.lower(), pattern.lower()) for pattern in as_list(statement["Action"])):
        return False
    if not any(fnmatchcase(resource, pattern) for pattern in as_list(statement["Resource"])):
        return False
    conditions = statement.get("Condition", {})
    assert set(conditions) <= set(OPERATORS)
    return all(context.get(key) in as_list(wanted) for pairs in conditions.values() for key, wanted in pairs.items())
