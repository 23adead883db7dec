"""Verifying tokens: real keys, a real issuer on loopback, and a table of attacks, each of which is refused."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from shared.auth import FETCH_PAUSE, LEEWAY, MAX_TOKEN, REFRESH_EVERY, Authenticator, Identity, Refused
from shared.settings import Settings, SettingsError
from tests.support.issuer import Issuer

NOW = 1_800_000_000.0
SECRET = "correct-horse-battery-staple-0123456789"
ISSUER, AUDIENCE = "https://issuer.example", "presence"
CLAIMS: dict[str, Any] = {"sub": "alice", "iat": int(NOW) - 60, "exp": int(NOW) + 3600}
ISSUED = CLAIMS | {"iss": ISSUER, "aud": AUDIENCE}
ALICE = Identity("alice", issued_at=int(NOW) - 60, expires_at=int(NOW) + 3600)

RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
STRANGER = rsa.generate_private_key(65537, 2048)
WEAK_KEY = rsa.generate_private_key(65537, 1024)  # noqa: S505 - weak on purpose
P384_KEY = ec.generate_private_key(ec.SECP384R1())


def jwk(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, kid: str, **more: str) -> dict[str, Any]:
    """The public half, as an issuer publishes it."""
    if isinstance(key, rsa.RSAPrivateKey):
        return RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": kid} | more
    return ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": kid} | more


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(header: dict[str, Any], claims: object, key: bytes = b"", digest: str = "sha256") -> str:
    """A hand-made token, signed with an HMAC or, without a key, unsigned; a string is used as JSON."""
    payload = claims if isinstance(claims, str) else json.dumps(claims)
    signed = f"{b64(json.dumps(header).encode())}.{b64(payload.encode())}"
    return f"{signed}.{b64(hmac.digest(key, signed.encode(), digest)) if key else ''}"


def signed(claims: object = None, **header: Any) -> str:
    """A token with the shared secret and any claims."""
    return forge({"alg": "HS256", "typ": "JWT"} | header, CLAIMS if claims is None else claims, SECRET.encode())


def issued(
    claims: dict[str, Any] = ISSUED,
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = RSA_KEY,
    algorithm: str = "RS256",
    **header: Any,
) -> str:
    """A token as the issuer makes it: with its RSA key by default."""
    return jwt.encode(claims, key, algorithm, {"kid": "rsa"} | header)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """An issuer with an RSA key and an EC key."""
    with Issuer([jwk(RSA_KEY, "rsa", use="sig", alg="RS256"), jwk(EC_KEY, "ec")]) as issuer:
        yield issuer


@pytest.fixture
def by_secret() -> Authenticator:
    """Verifies with the shared secret."""
    return Authenticator(Settings(jwt_secret=SECRET))


def trusting(url: str) -> Authenticator:
    """Verifies with the keys of an issuer."""
    return Authenticator(Settings(jwks_url=url, jwt_issuer=ISSUER, jwt_audience=AUDIENCE))


@pytest.fixture
def by_keys(issuer: Issuer) -> Authenticator:
    """Verifies with the keys of `issuer`."""
    return trusting(issuer.url)


# What is accepted


def test_a_token_with_the_shared_secret_names_its_user(by_secret: Authenticator) -> None:
    """An ordinary HS256 token gives the user, the time of issue and the end."""
    assert by_secret.verify(jwt.encode(CLAIMS, SECRET, "HS256"), NOW) == ALICE


def test_the_secret_may_come_from_elsewhere() -> None:
    """A secret read elsewhere is used in place of the setting."""
    settings = Settings(jwt_secret_arn="arn:aws:secretsmanager:eu-central-1:1:secret:jwt")
    assert Authenticator(settings, SECRET).verify(signed(), NOW) == ALICE


@pytest.mark.parametrize(("key", "algorithm", "kid"), [(RSA_KEY, "RS256", "rsa"), (EC_KEY, "ES256", "ec")])
def test_a_token_of_the_issuer_names_its_user(by_keys: Authenticator, key: Any, algorithm: str, kid: str) -> None:
    """RS256 and ES256 are verified with the published key that the token names."""
    assert by_keys.verify(issued(key=key, algorithm=algorithm, kid=kid), NOW) == ALICE


def test_one_audience_among_several_is_enough(by_keys: Authenticator) -> None:
    """`aud` may be a list."""
    assert by_keys.verify(issued(ISSUED | {"aud": ["chat", AUDIENCE]}), NOW) == ALICE


def test_a_token_without_iat_is_older_than_any_sign_out(by_secret: Authenticator) -> None:
    """Only `exp` is required; without `iat` the token counts as issued at time zero."""
    claims = {"sub": "alice", "exp": CLAIMS["exp"]}
    assert by_secret.verify(signed(claims), NOW) == Identity("alice", 0, CLAIMS["exp"])


def test_fractions_of_a_second_are_cut(by_secret: Authenticator) -> None:
    """Times may have fractions; the identity has whole seconds, rounded down."""
    claims = CLAIMS | {"iat": NOW - 60.1, "exp": NOW + 60.9}
    assert by_secret.verify(signed(claims), NOW) == Identity("alice", int(NOW) - 61, int(NOW) + 60)


@pytest.mark.parametrize("user", ["a", "Z" * 128, "auth0|5f7c", "tenant:user", "a.b-c_d~e@f+g=", "..."])
def test_every_user_id_of_the_protocol_is_accepted(by_secret: Authenticator, user: str) -> None:
    """The protocol's alphabet, from 1 to 128 characters."""
    assert by_secret.verify(signed(CLAIMS | {"sub": user}), NOW).user_id == user


def test_time_is_the_callers(by_secret: Authenticator) -> None:
    """A token is valid from `nbf` until `exp`, plus or minus the leeway, by the time that is passed in."""
    token = signed({"sub": "alice", "nbf": 1000, "exp": 2000})
    for now in (1000 - LEEWAY, 1500, 2000 + LEEWAY - 0.01):
        assert by_secret.verify(token, now).expires_at == 2000
    for now in (1000 - LEEWAY - 0.01, 2000 + LEEWAY, NOW):
        with pytest.raises(Refused):
            by_secret.verify(token, now)


# Attacks

TAMPERED = ".".join([signed().split(".")[0], b64(json.dumps(CLAIMS | {"sub": "bob"}).encode()), signed().split(".")[2]])

AGAINST_THE_SECRET: dict[str, str] = {
    "nothing": "",
    "a name": "alice",
    "dots": "..",
    "five parts": "a.b.c.d.e",
    "beyond ASCII": "jösé.jösé.jösé",
    "half a character": "\ud800.\ud800.\ud800",
    "huge": signed(CLAIMS | {"more": "x" * MAX_TOKEN}),
    "a deep header": f"{b64(b'[' * 3000 + b']' * 3000)}.e30.AAAA",
    "deep claims": signed('{"sub":' + "[" * 3000 + "]" * 3000 + "}"),
    "claims are a list": signed([CLAIMS]),
    "claims are no JSON": signed("{"),
    "no signature": forge({"alg": "HS256"}, CLAIMS),
    "alg none": forge({"alg": "none"}, CLAIMS),
    "alg NoNe": forge({"alg": "NoNe"}, CLAIMS),
    "alg none, but signed": forge({"alg": "none"}, CLAIMS, SECRET.encode()),
    "no alg": forge({"typ": "JWT"}, CLAIMS, SECRET.encode()),
    "alg is a list": forge({"alg": ["HS256"]}, CLAIMS, SECRET.encode()),
    "another HMAC": forge({"alg": "HS512"}, CLAIMS, SECRET.encode(), "sha512"),
    "another secret": forge({"alg": "HS256"}, CLAIMS, b"guess"),
    "another user's claims": TAMPERED,
    "a key pair instead": jwt.encode(CLAIMS, STRANGER, "RS256"),
    "an extension that must be understood": signed(crit=["exp2"], exp2=1),
    "a detached payload": signed(b64=False, crit=["b64"]),
    "an audience that is not us": signed(CLAIMS | {"aud": "somebody-else"}),
    "expired": signed(CLAIMS | {"exp": int(NOW) - 60}),
    "no exp": signed({"sub": "alice"}),
    "exp null": signed(CLAIMS | {"exp": None}),
    "exp text": signed(CLAIMS | {"exp": str(CLAIMS["exp"])}),
    "exp true": signed(CLAIMS | {"exp": True}),
    "exp in ms": signed(CLAIMS | {"exp": CLAIMS["exp"] * 1000}),
    "exp never": signed(json.dumps(CLAIMS | {"exp": float("inf")})),
    "exp no number": signed(json.dumps(CLAIMS | {"exp": float("nan")})),
    "exp endless": signed('{"sub":"alice","exp":1' + "0" * 400 + "}"),
    "exp of 5,000 digits": signed('{"sub":"alice","exp":1' + "0" * 5000 + "}"),
    "not yet": signed(CLAIMS | {"nbf": int(NOW) + 60}),
    "nbf true": signed(CLAIMS | {"nbf": True}),
    "nbf text": signed(CLAIMS | {"nbf": "0"}),
    "issued tomorrow": signed(CLAIMS | {"iat": int(NOW) + 86400}),
    "iat text": signed(CLAIMS | {"iat": "0"}),
    "iat in ms": signed(CLAIMS | {"iat": CLAIMS["iat"] * 1000}),
    "no sub": signed({"exp": CLAIMS["exp"]}),
    "sub null": signed(CLAIMS | {"sub": None}),
    "sub a number": signed(CLAIMS | {"sub": 7}),
    **{
        f"sub {user!r:.20}": signed(CLAIMS | {"sub": user})
        for user in ("", ".", "..", "a" * 129, "a b", "a/b", "alice\n", "alice\0", "älice", "a{b}", "a%2Fb", "*")
    },
}


@pytest.mark.parametrize("token", AGAINST_THE_SECRET.values(), ids=AGAINST_THE_SECRET.keys())
def test_no_attack_on_the_shared_secret_succeeds(by_secret: Authenticator, token: str) -> None:
    """Malformed, unsigned, wrongly signed, expired, premature and nameless tokens are refused."""
    with pytest.raises(Refused):
        by_secret.verify(token, NOW)


@given(st.text(max_size=300) | st.lists(st.binary(max_size=60).map(b64), min_size=1, max_size=4).map(".".join))
def test_any_text_is_refused_without_another_error(text: str) -> None:
    """Any text as a token leads to a refusal, and to no other exception."""
    with pytest.raises(Refused):
        Authenticator(Settings(jwt_secret=SECRET)).verify(text, NOW)


PUBLIC_PEM = RSA_KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
AGAINST_THE_KEYS: dict[str, str] = {
    "alg none": forge({"alg": "none", "kid": "rsa"}, ISSUED),
    "the public key as a secret": forge({"alg": "HS256", "kid": "rsa"}, ISSUED, PUBLIC_PEM),
    "the public key as a secret, trimmed": forge({"alg": "HS256", "kid": "rsa"}, ISSUED, PUBLIC_PEM.strip()),
    "the modulus as a secret": forge({"alg": "HS256", "kid": "rsa"}, ISSUED, jwk(RSA_KEY, "rsa")["n"].encode()),
    "a stranger's key under a known name": issued(key=STRANGER),
    "a stranger's key under its own name": issued(key=STRANGER, kid="stranger"),
    "a stranger's key brought along": issued(key=STRANGER, jwk=jwk(STRANGER, "rsa")),
    "an unknown key": issued(kid="unknown"),
    "no key named": jwt.encode(ISSUED, RSA_KEY, "RS256"),
    "the key's name is a number": forge({"alg": "RS256", "kid": 7}, ISSUED, b"x"),
    "the EC key under the RSA key's name": issued(key=EC_KEY, algorithm="ES256"),
    "the RSA key under the EC key's name": issued(kid="ec"),
    "another hash": issued(algorithm="RS512"),
    "another padding": issued(algorithm="PS256"),
    "another issuer": issued(ISSUED | {"iss": "https://evil.example"}),
    "another issuer that begins alike": issued(ISSUED | {"iss": ISSUER + ".evil.example"}),
    "no issuer": issued(CLAIMS | {"aud": AUDIENCE}),
    "another audience": issued(ISSUED | {"aud": "chat"}),
    "other audiences": issued(ISSUED | {"aud": ["chat", "mail"]}),
    "no audience": issued(CLAIMS | {"iss": ISSUER}),
    "expired": issued(ISSUED | {"exp": int(NOW) - 60}),
    "no exp": issued({"sub": "alice", "iss": ISSUER, "aud": AUDIENCE}),
    "no user id": issued(ISSUED | {"sub": "a/b"}),
}


@pytest.mark.parametrize("token", AGAINST_THE_KEYS.values(), ids=AGAINST_THE_KEYS.keys())
def test_no_attack_on_the_published_keys_succeeds(by_keys: Authenticator, token: str) -> None:
    """Confused algorithms, foreign keys, issuers and audiences are refused, and the genuine token still works."""
    with pytest.raises(Refused):
        by_keys.verify(token, NOW)
    assert by_keys.verify(issued(), NOW) == ALICE


def test_a_token_cannot_name_the_address_of_its_key(by_keys: Authenticator) -> None:
    """Key URLs in the token are never fetched."""
    with Issuer([jwk(STRANGER, "stranger")]) as elsewhere, pytest.raises(Refused):
        by_keys.verify(issued(key=STRANGER, kid="stranger", jku=elsewhere.url, x5u=elsewhere.url), NOW)
    assert elsewhere.fetches == 0


UNFIT: dict[str, tuple[dict[str, Any], Callable[[], str]]] = {
    "symmetric": (
        {"kty": "oct", "kid": "unfit", "k": b64(SECRET.encode())},
        lambda: forge({"alg": "HS256", "kid": "unfit"}, ISSUED, SECRET.encode()),
    ),
    "RSA with 1,024 bits": (
        jwk(WEAK_KEY, "unfit"),
        lambda: issued(key=WEAK_KEY, kid="unfit"),
    ),
    "another curve": (
        jwk(P384_KEY, "unfit"),
        lambda: issued(key=P384_KEY, algorithm="ES384", kid="unfit"),
    ),
    "for encryption": (jwk(STRANGER, "unfit", use="enc"), lambda: issued(key=STRANGER, kid="unfit")),
    "for another algorithm": (jwk(STRANGER, "unfit", alg="RS512"), lambda: issued(key=STRANGER, kid="unfit")),
    "without a name": (
        {field: value for field, value in jwk(STRANGER, "").items() if field != "kid"},
        lambda: jwt.encode(ISSUED, STRANGER, "RS256"),
    ),
}


@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")  # from PyJWT, when it signs with the weak key
@pytest.mark.parametrize(("key", "token"), UNFIT.values(), ids=UNFIT.keys())
def test_a_published_key_that_is_unfit_verifies_nothing(
    issuer: Issuer, by_keys: Authenticator, key: dict[str, Any], token: Callable[[], str]
) -> None:
    """Symmetric, short, foreign and misdirected keys in the set are skipped; the others still count."""
    issuer.document = {"keys": [key, "no key", {"kty": "RSA"}, {"kty": "RSA", "kid": "x"}, jwk(RSA_KEY, "rsa")]}
    with pytest.raises(Refused):
        by_keys.verify(token(), NOW)
    assert by_keys.verify(issued(), NOW) == ALICE


# The issuer's keys, cached


def test_keys_are_fetched_once_and_only_when_needed(issuer: Issuer, by_keys: Authenticator) -> None:
    """The first token fetches the keys; the next hundred do not."""
    assert issuer.fetches == 0
    for second in range(100):
        by_keys.verify(issued(), NOW + second)
    assert issuer.fetches == 1


def test_a_new_key_is_found_and_a_made_up_one_is_not_fetched_each_time(issuer: Issuer, by_keys: Authenticator) -> None:
    """An unknown key makes the set be fetched again, but only once in a while, however many tokens name one."""
    by_keys.verify(issued(), NOW)
    issuer.document = {"keys": [jwk(RSA_KEY, "rsa"), jwk(STRANGER, "new")]}
    new = issued(key=STRANGER, kid="new")
    for made_up in range(20):
        with pytest.raises(Refused):
            by_keys.verify(issued(kid=f"made-up-{made_up}"), NOW + 1)
    with pytest.raises(Refused):
        by_keys.verify(new, NOW + FETCH_PAUSE - 1)
    assert issuer.fetches == 1
    assert by_keys.verify(new, NOW + FETCH_PAUSE) == ALICE
    assert issuer.fetches == 2


def test_a_withdrawn_key_ends_with_the_next_refresh(issuer: Issuer, by_keys: Authenticator) -> None:
    """A key that the issuer no longer publishes is accepted for ten minutes at most."""
    by_keys.verify(issued(), NOW)
    issuer.document = {"keys": [jwk(EC_KEY, "ec")]}
    assert by_keys.verify(issued(), NOW + REFRESH_EVERY - 1) == ALICE
    with pytest.raises(Refused):
        by_keys.verify(issued(), NOW + REFRESH_EVERY)


@pytest.mark.parametrize("fault", ["stopped", "500", "no JSON object", "no keys", "no usable key", "redirect"])
def test_keys_stay_valid_while_the_issuer_cannot_be_reached(issuer: Issuer, by_keys: Authenticator, fault: str) -> None:
    """An issuer that is down or returns nonsense does not lock its users out, and is retried only once in a while."""
    by_keys.verify(issued(), NOW)
    if fault == "stopped":
        issuer.stop()
    issuer.status = {"500": 500, "redirect": 302}.get(fault, 200)
    issuer.document = {
        "no JSON object": ["keys"],
        "no keys": {"keys": []},
        "no usable key": {"keys": [{"kty": "oct", "kid": "rsa", "k": "AAAA"}]},
    }.get(fault, issuer.document)
    later = NOW + REFRESH_EVERY
    for second in range(10):
        assert by_keys.verify(issued(ISSUED | {"exp": int(later) + 60}), later + second).user_id == "alice"
    assert issuer.fetches == (1 if fault == "stopped" else 2)
    by_keys.verify(issued(ISSUED | {"exp": int(later) + 60}), later + FETCH_PAUSE)
    assert issuer.fetches == (1 if fault == "stopped" else 3)


def test_an_issuer_that_never_answered_is_not_hammered_and_is_tried_again(
    issuer: Issuer, by_keys: Authenticator
) -> None:
    """Before the first keys have arrived all tokens are refused; the next try, a while later, succeeds."""
    issuer.status = 503
    for second in range(10):
        with pytest.raises(Refused):
            by_keys.verify(issued(), NOW + second)
    assert issuer.fetches == 1
    issuer.status = 200
    assert by_keys.verify(issued(), NOW + FETCH_PAUSE) == ALICE


def test_a_silent_issuer_costs_two_seconds(issuer: Issuer, by_keys: Authenticator) -> None:
    """A fetch that hangs is given up before the handshake times out."""
    issuer.silent = True
    started = time.monotonic()
    with pytest.raises(Refused):
        by_keys.verify(issued(), NOW)
    assert 1.9 < time.monotonic() - started < 5


# What is refused at the start


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (Settings(), "set jwt_secret (or jwt_secret_arn) or jwks_url: without one no token can be verified"),
        (Settings(jwt_secret="x" * 31), "jwt_secret must have at least 32 bytes: a shorter one can be guessed"),
        (
            Settings(jwt_secret=PUBLIC_PEM.decode()),
            "jwt_secret is a key or certificate, which is no secret: publish it at jwks_url",
        ),
        (
            Settings(jwks_url="http://issuer.example/jwks", jwt_issuer=ISSUER, jwt_audience=AUDIENCE),
            "jwks_url must be https: an attacker who replaced the keys on their way could impersonate any user",
        ),
        (
            Settings(jwks_url="file:///etc/jwks", jwt_issuer=ISSUER, jwt_audience=AUDIENCE),
            "jwks_url must be https: an attacker who replaced the keys on their way could impersonate any user",
        ),
    ],
    ids=["nothing", "a short secret", "a public key", "http", "a file"],
)
def test_an_insecure_setup_is_refused_in_one_sentence(settings: Settings, sentence: str) -> None:
    """Settings that could not verify a token, or would accept any, are refused before the first token arrives."""
    with pytest.raises(SettingsError) as refusal:
        Authenticator(settings)
    assert str(refusal.value) == sentence


def test_the_secret_counts_in_bytes() -> None:
    """Sixteen characters of two bytes each are long enough."""
    secret = "ü" * 16
    token = forge({"alg": "HS256"}, CLAIMS, secret.encode())
    assert Authenticator(Settings(), secret).verify(token, NOW) == ALICE
