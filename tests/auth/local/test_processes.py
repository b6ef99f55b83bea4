"""Whole servers: two nodes with one secret are one registry, and one that cannot decide does not start."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import pytest
from tests.auth.local.helpers import policy_file, users_file
from tests.http.client import Client
from tests.live import SECRET, NotStarted, start_moorage
from tests.wire import Wire

from moorage.config.model import Settings
from moorage.config.sections.http import Http
from moorage.config.sections.services import Auth, Local
from moorage.config.sections.storage import Inmemory, Storage
from moorage.wiring.app import build, check

if TYPE_CHECKING:
    from pathlib import Path

POLICY: Final = "access: [{who: ann, repositories: team/**, allow: [pull, push]}]\n"
BASIC: Final = {"Authorization": f"Basic {base64.b64encode(b'ann:secret').decode()}"}
FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}


def files(folder: Path) -> dict[str, Any]:
    """The `auth` section over files in `folder`."""
    policy_file(folder, POLICY)
    users_file(folder, ann="secret")
    return {"local": {"policy": str(folder / "policy.yml"), "users": str(folder / "users")}}


@pytest.mark.slow
def test_nodes_with_one_secret_take_each_others_tokens_and_logins(tmp_path: Path) -> None:
    """A load balancer sends each request of a push wherever it likes; one with another secret takes none."""
    auth = files(tmp_path)
    with (
        start_moorage(tmp_path / "data", config=tmp_path / "a.yml", auth=auth) as one,
        start_moorage(tmp_path / "data", config=tmp_path / "b.yml", auth=auth) as other,
        start_moorage(
            tmp_path / "data", config=tmp_path / "c.yml", auth=auth, http={"secret": SECRET[::-1]}
        ) as stranger,
    ):
        query = "/token?service=moorage&offline_token=true&scope=repository:team/app:pull"
        login = json.loads(Wire(one.host).send("GET", query, headers=BASIC).body)
        bearer = {"Authorization": f"Bearer {login['token']}"}
        form = urlencode({"grant_type": "refresh_token", "refresh_token": login["refresh_token"]}).encode()
        for _ in range(8):  # each reaches one of two workers
            assert Wire(other.host).send("GET", "/v2/team/app/tags/list", headers=bearer).status == 404
            assert Wire(other.host).send("POST", "/token", form, headers=FORM).status == 200
        assert Wire(stranger.host).send("GET", "/v2/team/app/tags/list", headers=bearer).status == 401
        assert Wire(stranger.host).send("POST", "/token", form, headers=FORM).status == 401
        assert SECRET not in one.logs() + other.logs()


@pytest.mark.slow
def test_a_registry_that_cannot_read_its_policy_does_not_start(tmp_path: Path) -> None:
    """A registry without its policy would be open to all clients."""
    auth = files(tmp_path)
    policy_file(tmp_path, "acess: []\ngroups: [a]\n")
    with pytest.raises(NotStarted) as caught:
        start_moorage(tmp_path / "data", auth=auth)
    assert "policy.yml:1: acess: unknown key (did you mean access?)" in str(caught.value)
    assert "policy.yml:2: groups: expected a mapping" in str(caught.value)


def test_possible_mistakes_are_reported_at_start(tmp_path: Path) -> None:
    """Also that without a secret every login ends with the process."""
    local = Local(**files(tmp_path)["local"])
    policy_file(tmp_path, POLICY.replace("ann", "eve"))
    problems = [str(problem) for problem in check(Settings(auth=Auth(local=local)), b"random")]
    assert any("there is no user 'eve'" in text for text in problems)
    assert any("without http.secret" in text for text in problems)
    assert len(check(Settings(auth=Auth(local=local), http=Http(secret="x")), b"x")) == 1
    (tmp_path / "users").unlink()
    errors = [each for each in check(Settings(auth=Auth(local=local)), b"random") if each.kind == "error"]
    assert [(each.origin.source, each.message) for each in errors] == [
        (str(tmp_path / "users"), "cannot be used: No such file or directory")
    ]


@pytest.mark.parametrize("life_s", [60.0, 3600.0])
async def test_tokenlifetime_is_how_long_a_token_holds(tmp_path: Path, life_s: float) -> None:
    """Clients ask for the next one by `expires_in`."""
    local = Local(**files(tmp_path)["local"], tokenlifetime=life_s)
    settings = Settings(storage=Storage(inmemory=Inmemory()), auth=Auth(local=local), http=Http(secret=SECRET))
    app = build(settings, SECRET.encode(), worker=0)
    answer = await Client(app.asgi).get("/token?service=moorage&scope=repository:team/app:pull", BASIC)
    assert answer.json()["expires_in"] == life_s
    await app.close()
