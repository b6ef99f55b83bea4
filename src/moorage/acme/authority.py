"""ACME client: account, order, challenges, certificate.  Blocks.

    directory ─► account ─► order ─► answers published ─► challenges ready ─► validated ─► CSR ─► certificate

Every failure is an `OrderFailed` with the reason of the authority and the host.  A request whose nonce was refused
is sent again, several times.

Source: RFC 8555, RFC 8737; https://acme-python.readthedocs.io (what the library leaves to its users).
"""

from __future__ import annotations

import os
import ssl
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

import requests
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from josepy import jwa, jwk
from josepy.errors import Error as JoseError

from acme import challenges, client, errors, messages
from moorage import __version__
from moorage.acme import pem
from moorage.acme.order_spec import HTTP_01, TLS_ALPN_01, OrderFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.acme.order_spec import CertificateOrder, Timings

    Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

__all__ = ["Answers", "obtain", "trust"]

_NONCE_TRIES: Final = 12
_BUSY: Final = {429, 503}
_ALGORITHMS: Final = {"secp256r1": jwa.ES256, "secp384r1": jwa.ES384, "secp521r1": jwa.ES512}
_HINTS: Final = {
    "externalAccountRequired": "authorities that require an external account binding are not supported",
    "userActionRequired": "the authority's terms have changed; see its web site",
}


class Answers(Protocol):
    """Publishes the answers to challenges."""

    def put_http(self, token: str, text: str) -> None: ...
    def put_alpn(self, host: str, certificate: bytes) -> None: ...
    def ready(self) -> None:
        """Return when all published answers are served.  Raises `OrderFailed`."""
        ...

    def withdraw(self) -> None: ...


@challenges.ChallengeResponse.register
class _AlpnResponse(challenges.KeyAuthorizationChallengeResponse):
    """TLS-ALPN-01, which the library supported until version 5."""

    typ = TLS_ALPN_01


@challenges.Challenge.register
class _Alpn(challenges.KeyAuthorizationChallenge):
    response_cls = _AlpnResponse
    typ = TLS_ALPN_01

    def validation(self, account_key: jwk.JWK, **_: Any) -> str:
        return self.key_authorization(account_key)


def trust() -> None:
    """Trust the authorities of the system, or of SSL_CERT_FILE, in requests to the ACME server, as Go does.

    The library `requests` reads REQUESTS_CA_BUNDLE only, and has a list of its own by default.
    """
    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
    paths = ssl.get_default_verify_paths()
    for place in (named, paths.cafile, paths.capath):
        if place and Path(place).exists() and (Path(place).is_file() or any(Path(place).iterdir())):
            os.environ["REQUESTS_CA_BUNDLE"] = place
            return


def obtain(spec: CertificateOrder, account: Key, kind: str, answers: Answers, timings: Timings) -> bytes:
    """Return a new certificate and its key, as `pem.write`, with challenges of `kind`.  Raises `OrderFailed`."""
    network = _Network(account, timings.request_limit_s)
    try:
        return _obtain(spec, network, kind, answers, timings)
    except messages.Error as error:
        raise OrderFailed(_reason(error), wait_s=network.wait_s) from error
    except errors.IssuanceError as error:
        raise OrderFailed(f"the certificate is refused: {_reason(error.error)}", wait_s=network.wait_s) from error
    except errors.ValidationError as error:
        message = "; ".join(_invalid(error, kind)) or "the authority could not validate the hosts"
        raise OrderFailed(message, wait_s=network.wait_s, challenge=True) from error
    except errors.TimeoutError as error:
        raise OrderFailed(f"the authority has not decided within {timings.order_limit_s:g} s") from error
    except requests.RequestException as error:
        raise OrderFailed(_unreachable(error, spec.directory)) from error
    except (errors.Error, JoseError, ValueError, KeyError, AttributeError, TypeError) as error:
        # Errors of the library for responses that violate RFC 8555.
        message = f"{spec.directory} does not answer as an ACME server: {_shown(error)}"
        raise OrderFailed(message, wait_s=network.wait_s) from error
    finally:
        network.session.close()


def _obtain(spec: CertificateOrder, network: _Network, kind: str, answers: Answers, timings: Timings) -> bytes:
    deadline = datetime.now() + timedelta(seconds=timings.order_limit_s)  # noqa: DTZ005  the library compares naive times
    acme = client.ClientV2(client.ClientV2.get_directory(spec.directory, network), net=network)
    _sign_in(acme, spec.email)
    key = pem.new_key()
    order = acme.new_order(pem.request(key, spec.hosts))
    try:
        published = [_publish(one, kind, network.account_key, answers) for one in _open(order)]
        if published:
            answers.ready()
        for challenge, response in published:
            acme.answer_challenge(challenge, response)
        order = acme.poll_authorizations(order, deadline)
    finally:
        answers.withdraw()
    order = acme.finalize_order(order, deadline)
    return pem.write(key, order.fullchain_pem)


def _open(order: messages.OrderResource) -> Iterator[messages.AuthorizationResource]:
    """Yield the authorizations that are not valid yet; an authority keeps valid ones for a while."""
    for one in order.authorizations:
        if one.body.status != messages.STATUS_VALID:
            yield one


def _publish(
    authorization: messages.AuthorizationResource, kind: str, key: jwk.JWK, answers: Answers
) -> tuple[messages.ChallengeBody, challenges.ChallengeResponse]:
    """Publish the answer; return the challenge and its response.  Raises `OrderFailed`."""
    host = authorization.body.identifier.value
    found = next((one for one in authorization.body.challenges if one.chall.typ == kind), None)
    if found is None:
        offered = ", ".join(sorted(one.chall.typ or "?" for one in authorization.body.challenges))
        raise OrderFailed(f"the authority offers no {kind} for {host}, only {offered}", challenge=True)
    response, _ = found.chall.response_and_validation(key)
    if kind == HTTP_01:
        answers.put_http(found.chall.encode("token"), response.key_authorization)
    else:
        now = datetime.now().astimezone()
        answers.put_alpn(host, pem.challenge_certificate(host, response.key_authorization, now))
    return found, response


def _sign_in(acme: client.ClientV2, email: str) -> None:
    """Create the account of the key, or update its address if that has changed.

    By configuring ACME the operator agrees to the terms of the authority (docs/letsencrypt.md).
    """
    new = messages.NewRegistration.from_data(email=email or None, terms_of_service_agreed=True)
    try:
        acme.new_account(new)
    except errors.ConflictError as error:
        known = messages.RegistrationResource(uri=error.location, body=messages.Registration())
        account = acme.query_registration(known)
        if email and tuple(account.body.contact) != tuple(new.contact):
            acme.update_registration(account, messages.Registration(contact=new.contact))


class _Network(client.ClientNetwork):
    """HTTP client; `wait_s` is the Retry-After of the last refusal."""

    def __init__(self, key: Key, limit_s: float) -> None:
        if isinstance(key, rsa.RSAPrivateKey):
            self.account_key: jwk.JWK = jwk.JWKRSA(key=key)
            algorithm: Any = jwa.RS256
        else:
            self.account_key = jwk.JWKEC(key=key)
            algorithm = _ALGORITHMS[key.curve.name]
        agent = f"moorage/{__version__} (acme-python)"
        super().__init__(self.account_key, alg=algorithm, user_agent=agent)
        self._default_timeout: Any = limit_s
        self.wait_s = 0.0
        self.session.hooks["response"].append(self._note)

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        for left in reversed(range(_NONCE_TRIES)):
            try:
                return super().post(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce" or not left:
                    raise
        raise AssertionError("the last try returns or raises")

    def _note(self, response: requests.Response, *_: object, **__: object) -> None:
        retry_after = response.headers.get("Retry-After")
        if response.status_code in _BUSY and retry_after:
            self.wait_s = _seconds(retry_after)


def _seconds(retry_after: str) -> float:
    """Return the seconds of a Retry-After header, which is a number or a date; 0 if it is invalid."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    return max(0.0, (until - datetime.now(until.tzinfo)).total_seconds())


# Messages


def _reason(error: messages.Error) -> str:
    """Return the reason, host and error type that the authority reported."""
    text = error.detail or error.title or "no reason given"
    parts = [f"{text} ({error.code or error.typ})"]
    for one in error.subproblems or ():
        host = one.identifier.value if one.identifier else "?"
        parts.append(f"{host}: {one.detail or one.title} ({one.code or one.typ})")
    if hint := _HINTS.get(error.code or ""):
        parts.append(hint)
    return "; ".join(parts)


def _invalid(error: errors.ValidationError, kind: str) -> Iterator[str]:
    for authorization in error.failed_authzrs:
        host = authorization.body.identifier.value
        for one in authorization.body.challenges:
            if one.error is not None:
                yield f"{host} by {kind}: {_reason(one.error)}"


def _unreachable(error: requests.RequestException, directory: str) -> str:
    url = error.request.url if error.request is not None else None
    host = urlsplit(str(url or directory)).netloc
    if isinstance(error, requests.Timeout):
        return f"{host} does not answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return f"cannot trust {host}: {_innermost(error)}; SSL_CERT_FILE may name its authority"
    return f"cannot reach {host}: {_innermost(error)}"


def _innermost(error: BaseException) -> str:
    """Return the message of the operating system, from the exceptions of three libraries around it."""
    below = getattr(error, "reason", None)
    if not isinstance(below, BaseException):
        below = next((one for one in error.args if isinstance(one, BaseException)), None) or error.__cause__
    if below is not None and below is not error:
        return _innermost(below)
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return _shown(error)


def _shown(error: BaseException) -> str:
    """Return one line of at most 200 characters: a server that is no ACME server may answer anything."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."  # noqa: PLR2004
