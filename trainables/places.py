"""Places that hold files: a folder of a file system, or a prefix of an object store."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

from pyarrow import ArrowException, fs

from trainables.uris import is_uri

FAILURES = (OSError, ArrowException, MemoryError)
"""What reading or writing a place raises where the place, not this program, is at fault."""
S3_ATTEMPTS = 3
"""Of each request, with growing pauses, as boto3 does; a URI's own 30 would wait minutes for a silent server."""
_REMEDIES_BY_CODE = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or raise the quota",
    errno.EACCES: "let this user write there",
    errno.EPERM: "let this user write there",
    errno.EROFS: "mount it writable, or name another folder",
    errno.ENOENT: "make the folder again",
    errno.EEXIST: "name a folder, not a file",
    errno.ENOTDIR: "name a folder, not a file",
}
_STORE_REMEDIES = {
    **dict.fromkeys(("NO_SUCH_BUCKET", "HTTP status 404"), "make the bucket, or correct its name"),
    **dict.fromkeys(("ACCESS_DENIED", "HTTP status 403"), "let these credentials list, read, write and delete there"),
    "INVALID_ACCESS_KEY_ID": "correct AWS_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH": "correct AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "renew the credentials: AWS_SESSION_TOKEN and its keys",
    "HTTP status 400": "renew the credentials, which may have expired, or correct AWS_DEFAULT_REGION",
    "HTTP status 301": "correct AWS_DEFAULT_REGION: the bucket is in another",
    **dict.fromkeys(
        ("SLOW_DOWN", "SERVICE_UNAVAILABLE", "HTTP status 503"),
        "try again later, or with fewer readers and writers at a time: the store throttles",
    ),
    **dict.fromkeys(("INTERNAL_FAILURE", "HTTP status 500"), "try again later: the store itself fails"),
    "NETWORK_CONNECTION": "check the network, and AWS_ENDPOINT_URL where one is set",
}


def open_filesystem(uri: str) -> tuple[Any, str]:
    """Open the file system of a place; nothing is read or made there.

    Args:
        uri: a path, or a URI of pyarrow.fs: file://, s3://bucket/prefix, gs://, hdfs://. S3 takes its credentials,
            region and endpoint (AWS_ENDPOINT_URL) from the standard environment.

    Returns:
        A pyarrow file system, and the path in it: absolute, or of the form bucket/prefix.

    Raises:
        OSError, ArrowException: the URI is of no known kind, or names the home of nobody.

    """
    if not is_uri(uri):
        try:
            return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
        except RuntimeError as error:
            raise FileNotFoundError(str(error)) from None
    filesystem, path = fs.FileSystem.from_uri(uri)
    if isinstance(filesystem, fs.S3FileSystem):
        filesystem = _with_few_attempts(filesystem)
    return filesystem, path


def check_bucket(filesystem: Any, path: str) -> None:
    """Raise OSError where the bucket of a path in an object store is missing."""
    bucket = path.partition("/")[0]
    if filesystem.get_file_info(bucket).type == fs.FileType.NotFound:
        raise OSError(f"NO_SUCH_BUCKET: there is no bucket {bucket!r}")


def explain(error: BaseException) -> tuple[str, str]:
    """Reason and remedy of one of FAILURES, each a part of a line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    # A request's id names nothing that the reader could look up.
    reason = re.sub(r" \(Request ID: [^)]*\)", "", " ".join(text.split()))[:300] or type(error).__name__
    if isinstance(error, MemoryError):
        return "out of host memory", "free host memory"
    if isinstance(error, OSError) and error.errno in _REMEDIES_BY_CODE:
        return reason, _REMEDIES_BY_CODE[error.errno]
    return reason, store_remedy(text) or "correct it, or see that the place works"


def store_remedy(text: str) -> str | None:
    """What helps against an object store's error, from its text; None where that says nothing of a store."""
    return next((remedy for mark, remedy in _STORE_REMEDIES.items() if mark in text), None)


def _with_few_attempts(filesystem: Any) -> Any:
    """The same S3 file system, made again as pickle would, since a URI can't say how often to retry."""
    make, (settings,) = filesystem.__reduce__()
    return make({**settings, "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS)})
