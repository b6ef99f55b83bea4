"""The conversation with the ACME server: account, order, challenges, certificate.  Blocks.

    directory ─► account ─► order ─► answers in place ─► "ask me" ─► it has asked ─► request ─► certificate

Whatever goes wrong is a `Failed` whose message says what the authority said, and of which host.  A refused nonce
says nothing about the request, which is sent again, many times if need be.

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
from moorage.acme.order_spec import HTTP_01, TLS_ALPN_01, Failed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.acme.order_spec import Pace, Wanted

    Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

__all__ = ["Answers", "obtain", "trust"]

_NONCE_TRIES: Final = 12
_BUSY: Final = {429, 503}
_ALGORITHMS: Final = {"secp256r1": jwa.ES256, "secp384r1": jwa.ES384, "secp521r1": jwa.ES512}
_HINTS: Final = {
    "externalAccountRequired": "authorities that want an external account binding are not supported",
    "userActionRequired": "the authority's terms have changed; see its web site",
}


class Answers(Protocol):
    """Where the answers to challenges are put, and when the authority may ask for them."""

    def put_http(self, token: str, text: str) -> None: ...
    def put_alpn(self, host: str, certificate: bytes) -> None: ...
    def ready(self) -> None:
        """Returns when everything that has been put is answered.  Raises `Failed`."""
        ...

    def withdraw(self) -> None: ...


@challenges.ChallengeResponse.register
class _AlpnResponse(challenges.KeyAuthorizationChallengeResponse):
    """The library had these two until version 5."""

    typ = TLS_ALPN_01


@challenges.Challenge.register
class _Alpn(challenges.KeyAuthorizationChallenge):
    response_cls = _AlpnResponse
    typ = TLS_ALPN_01

    def validation(self, account_key: jwk.JWK, **_: Any) -> str:
        return self.key_authorization(account_key)


def trust() -> None:
    """Trust the system's authorities when talking to the ACME server, as programs in Go do; or SSL_CERT_FILE's.

    The library underneath looks at REQUESTS_CA_BUNDLE only, and else brings a list of its own.
    """
    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
    paths = ssl.get_default_verify_paths()
    for place in (named, paths.cafile, paths.capath):
        if place and Path(place).exists() and (Path(place).is_file() or any(Path(place).iterdir())):
            os.environ["REQUESTS_CA_BUNDLE"] = place
            return


def obtain(wanted: Wanted, account: Key, kind: str, answers: Answers, pace: Pace) -> bytes:
    """A new certificate and its key in the form of `pem`, with challenges of one `kind`.  Raises `Failed`."""
    network = _Network(account, pace.request_limit_s)
    try:
        return _obtain(wanted, network, kind, answers, pace)
    except messages.Error as error:
        raise Failed(_told(error), wait_s=network.wait_s) from error
    except errors.IssuanceError as error:
        raise Failed(f"the certificate is refused: {_told(error.error)}", wait_s=network.wait_s) from error
    except errors.ValidationError as error:
        message = "; ".join(_invalid(error, kind)) or "the authority could not validate the hosts"
        raise Failed(message, wait_s=network.wait_s, challenge=True) from error
    except errors.TimeoutError as error:
        raise Failed(f"the authority has not decided within {pace.order_limit_s:g} s") from error
    except requests.RequestException as error:
        raise Failed(_unreachable(error, wanted.directory)) from error
    except (errors.Error, JoseError, ValueError, KeyError, AttributeError, TypeError) as error:
        # The library's ways of saying that an answer is not what RFC 8555 says.
        message = f"{wanted.directory} does not answer as an ACME server: {_shown(error)}"
        raise Failed(message, wait_s=network.wait_s) from error
    finally:
        network.session.close()


def _obtain(wanted: Wanted, network: _Network, kind: str, answers: Answers, pace: Pace) -> bytes:
    deadline = datetime.now() + timedelta(seconds=pace.order_limit_s)  # noqa: DTZ005  what the library compares with
    acme = client.ClientV2(client.ClientV2.get_directory(wanted.directory, network), net=network)
    _sign_in(acme, wanted.email)
    key = pem.new_key()
    order = acme.new_order(pem.request(key, wanted.hosts))
    try:
        asked = [_answered(one, kind, network.account_key, answers) for one in _open(order)]
        if asked:
            answers.ready()
        for challenge, response in asked:
            acme.answer_challenge(challenge, response)
        order = acme.poll_authorizations(order, deadline)
    finally:
        answers.withdraw()
    order = acme.finalize_order(order, deadline)
    return pem.write(key, order.fullchain_pem)


def _open(order: messages.OrderResource) -> Iterator[messages.AuthorizationResource]:
    """What is still to be shown; an authority remembers for a while what it has been shown."""
    for one in order.authorizations:
        if one.body.status != messages.STATUS_VALID:
            yield one


def _answered(
    authorization: messages.AuthorizationResource, kind: str, key: jwk.JWK, answers: Answers
) -> tuple[messages.ChallengeBody, challenges.ChallengeResponse]:
    """Put the answer in place; the challenge, and what says that it may be asked for.  Raises `Failed`."""
    host = authorization.body.identifier.value
    found = next((one for one in authorization.body.challenges if one.chall.typ == kind), None)
    if found is None:
        offered = ", ".join(sorted(one.chall.typ or "?" for one in authorization.body.challenges))
        raise Failed(f"the authority offers no {kind} for {host}, only {offered}", challenge=True)
    response, _ = found.chall.response_and_validation(key)
    if kind == HTTP_01:
        answers.put_http(found.chall.encode("token"), response.key_authorization)
    else:
        now = datetime.now().astimezone()
        answers.put_alpn(host, pem.challenge_certificate(host, response.key_authorization, now))
    return found, response


def _sign_in(acme: client.ClientV2, email: str) -> None:
    """The account of our key: made if the authority does not know it, its address changed if ours is another.

    That the terms are agreed to is what configuring this means (docs/letsencrypt.md).
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
    """`wait_s` is what the last refusal said of the time to wait."""

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
        if response.status_code in _BUSY and (told := response.headers.get("Retry-After")):
            self.wait_s = _seconds(told)


def _seconds(told: str) -> float:
    """Retry-After, which is seconds or a date; 0 for anything else."""
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(told)
    except ValueError:
        return 0.0
    return max(0.0, (until - datetime.now(until.tzinfo)).total_seconds())


# Words


def _told(error: messages.Error) -> str:
    """What the authority said, of which host, and its word for it."""
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
                yield f"{host} by {kind}: {_told(one.error)}"


def _unreachable(error: requests.RequestException, directory: str) -> str:
    asked = error.request.url if error.request is not None else None
    host = urlsplit(str(asked or directory)).netloc
    if isinstance(error, requests.Timeout):
        return f"{host} does not answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return f"cannot trust {host}: {_innermost(error)}; SSL_CERT_FILE may name its authority"
    return f"cannot reach {host}: {_innermost(error)}"


def _innermost(error: BaseException) -> str:
    """The operating system's words, out of three libraries' wrappings."""
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
    """One line, not too long: answers of servers that are none go through here."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."  # noqa: PLR2004
