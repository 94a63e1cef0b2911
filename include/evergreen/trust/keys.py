"""The key that signs, the keys that are believed, and the envelope a signed document travels in.

The keys are elliptic curve ones (P-256, ECDSA over SHA-256). The envelope is DSSE_: its signature covers the type of
the document too, so that one kind of document is never taken for another.

.. _DSSE: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from evergreen.contract import ConfigurationError, DataError
from evergreen.settings import SIGNING_KEY, VERIFICATION_KEYS, get_settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

_MAKE = "docs/kubernetes.md tells how to make one; on one machine `evergreen up` does."
_PEM = re.compile("-----BEGIN (?!EC PARAMETERS)[A-Z ]+-----([^-]+)-----END [A-Z ]+-----")


class UntrustedError(DataError):
    """Something is not what somebody with the key has made: it is not used."""


class UnsignedError(UntrustedError):
    """It bears no signature."""


class WrongKeyError(UntrustedError):
    """It is signed, by a key that is not one of those that are believed."""


class ChangedError(UntrustedError):
    """It is not, or not any more, what was signed."""


def signing_key(what: str) -> EllipticCurvePrivateKey:
    """Return the private key.

    Parameters
    ----------
    what
        What is to be signed, for the message.

    Raises
    ------
    ConfigurationError
        If this process was given none, it is no key of the curve P-256, or its public half is not one of those that
        are believed: what it signs would be refused.
    """
    secret = get_settings().signing_key
    if secret is None or not secret.get_secret_value().strip():
        raise ConfigurationError(
            f"{what} has to be signed, and {SIGNING_KEY} is not set.",
            f"Give this step the private key (in a cluster the Secret evergreen-signing has it). {_MAKE}",
        )
    key = _private(secret.get_secret_value())
    if key_id(key.public_key()) not in verification_keys():
        raise ConfigurationError(
            f"The public half of {SIGNING_KEY} is not in {VERIFICATION_KEYS}: nobody would believe what it signs.",
            "Add it there; that of an older key may stay beside it.",
        )
    return key


def verification_keys() -> Mapping[str, EllipticCurvePublicKey]:
    """Return the public keys that are believed, by their ids.

    Raises
    ------
    ConfigurationError
        If there are none, or one is no key of the curve P-256.
    """
    return _believed(get_settings().verification_keys)


@lru_cache(maxsize=1)
def _believed(text: str) -> Mapping[str, EllipticCurvePublicKey]:
    """Return the keys in a text: an audit log asks for them a thousand times."""
    keys = [*_keys(text, VERIFICATION_KEYS, _load_public)]
    if not keys:
        raise ConfigurationError(
            f"{VERIFICATION_KEYS} is not set: no signature can be verified, so nothing is believed.",
            "Set it to the public half of the signing key, as PEM or in one line; several stand one after another. "
            f"{_MAKE}",
        )
    return {key_id(key): key for key in keys}


def key_id(key: EllipticCurvePublicKey) -> str:
    """Return the id of a public key: the SHA-256 of its DER form (SubjectPublicKeyInfo)."""
    return sha256(public_der(key)).hexdigest()


def public_der(key: EllipticCurvePublicKey) -> bytes:
    """Return the DER form of a public key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def new_key() -> tuple[str, str]:
    """Return a new private key and its public half, each as one line: the body of its PEM form."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = generate_private_key(SECP256R1())
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return base64.b64encode(private).decode(), base64.b64encode(public_der(key.public_key())).decode()


def in_one_line(private: str) -> str:
    """Return a private key, given as PEM or in one line, in one line.

    Raises
    ------
    ConfigurationError
        If it is no private key of the curve P-256.
    """
    _private(private)
    return "".join(_bodies(private)[0].split())


def published(private: str, others: str = "") -> str:
    """Return the public half of a private key and other public keys, a word each and each once.

    Raises
    ------
    ConfigurationError
        If one of them is no key of the curve P-256.
    """
    every = [_private(private).public_key(), *_keys(others, VERIFICATION_KEYS, _load_public)]
    return " ".join(dict.fromkeys(base64.b64encode(public_der(key)).decode() for key in every))


def sign(payload: bytes, payload_type: str) -> str:
    """Return a signed envelope (JSON) around a document.

    Parameters
    ----------
    payload
        The document.
    payload_type
        What kind of document it is: a media type.

    Raises
    ------
    ConfigurationError
        If this process was not given the key.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    key = signing_key(f"A document ({payload_type})")
    signature = key.sign(_encoded(payload, payload_type), ECDSA(SHA256()))
    signed = {"keyid": key_id(key.public_key()), "sig": base64.b64encode(signature).decode()}
    body = {"payload": base64.b64encode(payload).decode(), "payloadType": payload_type, "signatures": [signed]}
    return json.dumps(body)


def verify(envelope: str | bytes | None, payload_type: str, what: str = "the document") -> bytes:
    """Return the document in an envelope, once one of its signatures is found to be good.

    Parameters
    ----------
    envelope
        What `sign` returned; None, if nothing is there.
    payload_type
        The kind of document it has to be.
    what
        What to call it in messages.

    Raises
    ------
    UnsignedError, WrongKeyError, ChangedError
        If it is not signed, not by a key that is believed, or is not what was signed.
    ConfigurationError
        If no keys are known.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    known = verification_keys()
    if not envelope:
        raise UnsignedError(f"{what} is not signed, and is not used.", "Make it again with the steps of this version.")
    payload, kind, signatures = _parts(envelope, what)
    if kind != payload_type:
        raise ChangedError(
            f"{what} is signed as another kind of document, {kind!r} and not {payload_type!r}.",
            "It was put in place of the right one: restore that from a backup.",
        )
    believed = [(known[key], signature) for key, signature in signatures if key in known]
    for key, signature in believed:
        try:
            key.verify(signature, _encoded(payload, payload_type), ECDSA(SHA256()))
        except InvalidSignature:
            continue
        return payload
    if believed:
        raise ChangedError(f"{what} was changed after it was signed.", "Restore it from a backup, or make it again.")
    if not signatures:
        raise UnsignedError(f"{what} is not signed, and is not used.", "Make it again with the steps of this version.")
    raise WrongKeyError(
        f"{what} is signed by the key {signatures[0][0][:16]!r}, which is not one of those in {VERIFICATION_KEYS}.",
        "If it is an older key of yours, add its public half there; otherwise somebody else has signed.",
    )


def _encoded(payload: bytes, payload_type: str) -> bytes:
    """Return what a signature covers: DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _parts(envelope: str | bytes, what: str) -> tuple[bytes, str, list[tuple[str, bytes]]]:
    """Return an envelope's document, its kind, and (key id, signature) of each who signed."""
    try:
        body = json.loads(envelope)
        signatures = [(str(one["keyid"]), base64.b64decode(one["sig"], validate=True)) for one in body["signatures"]]
        return base64.b64decode(body["payload"], validate=True), str(body["payloadType"]), signatures
    except (ValueError, TypeError, KeyError, RecursionError) as error:  # binascii's and JSON's errors are ValueErrors
        raise ChangedError(
            f"{what} is no signed envelope (DSSE): {type(error).__name__}.",
            "Restore it from a backup, or make it again.",
        ) from error


def _private(text: str) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    key: EllipticCurvePrivateKey = next(_keys(text, SIGNING_KEY, lambda der: load_der_private_key(der, None)))
    return key


def _load_public(der: bytes) -> Any:
    """Load a public key, or take it out of a certificate: what Helm can make of a private key."""
    from cryptography.hazmat.primitives.serialization import load_der_public_key
    from cryptography.x509 import load_der_x509_certificate

    try:
        return load_der_public_key(der)
    except ValueError:
        return load_der_x509_certificate(der).public_key()


def _bodies(text: str) -> list[str]:
    return _PEM.findall(text) or text.split()


def _keys(text: str, variable: str, load: Any) -> Iterator[Any]:
    """Yield the keys in a text: PEM blocks, or the body of each as one word."""
    from cryptography.exceptions import UnsupportedAlgorithm

    for number, body in enumerate(_bodies(text), start=1):
        try:
            key = load(base64.b64decode("".join(body.split()), validate=True))
        except (binascii.Error, ValueError, TypeError, UnsupportedAlgorithm):  # their texts may hold the key
            raise ConfigurationError(f"{variable}: key {number} cannot be read.", f"Give it as PEM. {_MAKE}") from None
        if getattr(getattr(key, "curve", None), "name", "") != "secp256r1":
            raise ConfigurationError(f"{variable}: key {number} is not of the curve P-256.", _MAKE)
        yield key
