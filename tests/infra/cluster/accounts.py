"""Access keys that may do what the policies in infra/aws say, of which simulated AWS checks the actions.

moto knows neither conditions nor the resources of EC2's actions: those are left out here, and test_aws_policies.py
looks at them. Buckets and keys of S3 it does know.
"""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from tests.infra.cluster.cloud import ENDPOINT, Keys
from tests.infra.iam import as_list, read_policy

EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


def as_moto_reads_it(policy: dict[str, Any]) -> dict[str, Any]:
    """The policy, without what moto would take for never true."""
    statements = []
    for statement in policy["Statement"]:
        kept = {key: value for key, value in statement.items() if key != "Condition"}
        if not all(action.startswith("s3:") for action in as_list(statement["Action"])):
            kept["Resource"] = "*"
        elif "s3:DeleteObject" in as_list(statement["Action"]):
            # AWS asks for each object of a request to delete several, moto for the bucket.
            kept["Resource"] = [*as_list(kept["Resource"]), statement["Resource"].partition("/")[0]]
        statements.append(kept)
    return policy | {"Statement": statements}


def make_keys(anyone: Keys) -> dict[str, Keys]:
    """Keys of the owner, of the operator, and of the roles of head and worker; from now on only these are let in."""
    iam = anyone.client("iam")
    keys = {}
    for name in ("owner", "operator", "head", "worker"):
        policy = EVERYTHING if name == "owner" else as_moto_reads_it(read_policy(name))
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="epoch14", PolicyDocument=json.dumps(policy))
        made = iam.create_access_key(UserName=name)["AccessKey"]
        keys[name] = Keys(made["AccessKeyId"], made["SecretAccessKey"])
    strict = urllib.request.Request(  # noqa: S310 - our own
        f"{ENDPOINT}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}, method="POST"
    )
    urllib.request.urlopen(strict, timeout=10).close()  # noqa: S310 - our own
    return keys
