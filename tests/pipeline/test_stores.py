"""What the errors of an object store mean to whoever has to mend something."""

import pytest

from pipeline.errors import FunnelError, TransientError
from pipeline.stores import explain_store_error

UPLOAD = "When initiating multiple part upload for key 'a/b' in bucket 'wh': AWS Error {} (Request ID: 18EC2A)"
LOOK = "When reading information for key 'a/b' in bucket 'wh': AWS Error {}"


@pytest.mark.parametrize(
    ("said", "kind", "advice"),
    [
        (UPLOAD.format("ACCESS_DENIED during CreateMultipartUpload operation: Access Denied."), FunnelError, "may not"),
        (
            UPLOAD.format("SIGNATURE_DOES_NOT_MATCH during CreateMultipartUpload operation: The request signature"),
            FunnelError,
            "does not accept the credentials",
        ),
        (
            LOOK.format("UNKNOWN (HTTP status 400) during HeadObject operation: ExpiredToken The token has expired."),
            FunnelError,
            "credentials have expired",
        ),
        (
            UPLOAD.format("NO_SUCH_BUCKET during CreateMultipartUpload operation: The bucket does not exist"),
            FunnelError,
            "no such bucket",
        ),
        (
            LOOK.format("NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Could not connect to server"),
            TransientError,
            "does not answer",
        ),
        (LOOK.format("UNKNOWN (HTTP status 503) during HeadObject operation: \n"), TransientError, "does not answer"),
        (LOOK.format("SLOW_DOWN during HeadObject operation: Reduce your rate"), TransientError, "does not answer"),
        (LOOK.format("INVALID_ACTION during HeadObject operation: What?"), FunnelError, "INVALID_ACTION: What?"),
    ],
)
def test_each_error_names_what_failed_and_what_to_do(said: str, kind: type[FunnelError], advice: str) -> None:
    found = explain_store_error(OSError(said))
    assert type(found) is kind
    assert advice in str(found) and "key 'a/b' in bucket 'wh'" in str(found)
    assert "\n" not in str(found) and "Request ID" not in str(found)


def test_other_errors_are_left_to_others() -> None:
    assert explain_store_error(OSError(28, "No space left on device")) is None
