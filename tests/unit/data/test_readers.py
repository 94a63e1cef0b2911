"""What a reader raises gets a class: of HTTP clients, too, whose errors have little in common."""

from __future__ import annotations

import os
from collections.abc import Mapping
from http.client import BadStatusLine, IncompleteRead, InvalidURL
from pathlib import Path
from ssl import SSLCertVerificationError
from urllib.error import URLError

import httpx
import pytest
import requests
import urllib3
from botocore.exceptions import EndpointConnectionError, NoCredentialsError

from evergreen.contract import ConfigurationError, DataError, StepError, TemporaryError
from evergreen.data.readers import reader_error

REQUEST = httpx.Request("GET", "http://source.example/day.csv")


def _of_httpx(status: int) -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError(str(status), request=REQUEST, response=httpx.Response(status, request=REQUEST))


def _of_requests(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(str(status), response=response)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (IncompleteRead(b"half", 5), TemporaryError),
        (BadStatusLine("half"), TemporaryError),
        (requests.ConnectionError("no route"), TemporaryError),
        (httpx.ConnectError("no route"), TemporaryError),
        (httpx.ReadTimeout("too slow"), TemporaryError),
        (urllib3.exceptions.ProtocolError("broken"), TemporaryError),
        (EndpointConnectionError(endpoint_url="http://source.example"), TemporaryError),
        *((_of(status), TemporaryError) for _of in (_of_httpx, _of_requests) for status in (429, 500, 503)),
        *((_of(status), DataError) for _of in (_of_httpx, _of_requests) for status in (400, 404, 410)),
        *((_of(status), ConfigurationError) for _of in (_of_httpx, _of_requests) for status in (401, 403)),
        (URLError(SSLCertVerificationError(1, "certificate verify failed")), ConfigurationError),
        (SSLCertVerificationError(1, "certificate verify failed"), ConfigurationError),
        (InvalidURL("a blank in it"), ConfigurationError),
        (httpx.InvalidURL("no host"), ConfigurationError),
        (NoCredentialsError(), ConfigurationError),
        (TypeError("a mistake"), ConfigurationError),
    ],
    ids=repr,
)
def test_a_server_that_does_not_answer_is_asked_again_and_no_other(error: Exception, expected: type[StepError]) -> None:
    assert type(reader_error(error, "reading things", Path("source.py"))) is expected


@pytest.mark.parametrize(("given", "expected"), [(os.environ, ConfigurationError), ({}, DataError)], ids=type)
def test_a_variable_that_is_not_set_is_no_column_that_is_gone(
    given: Mapping[str, str], expected: type[StepError]
) -> None:
    with pytest.raises(KeyError) as raised:
        given["NO_SUCH_VARIABLE"]
    assert type(reader_error(raised.value, "reading things", Path("source.py"))) is expected
