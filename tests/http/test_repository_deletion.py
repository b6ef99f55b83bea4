"""DELETE of a whole repository over HTTP: gone at once, refused with a reason, and undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.http.client import NAME, codes

from moorage.config.model import Settings
from moorage.config.sections.storage import Delete, Maintenance, ReadOnly, Storage
from moorage.registry.restore import Restorer
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import image

if TYPE_CHECKING:
    from tests.http.client import Client
    from tests.http.conftest import Serve

BUILT = image(seed=1)
TARGET = f"/v2/{NAME}/_moorage/repository/content"


async def test_a_deleted_repository_is_in_no_list(client: Client) -> None:
    """And those below it are."""
    await client.push(BUILT, "v1")
    await client.push(BUILT, "v1", name=f"{NAME}/below")
    answer = await client.send("DELETE", TARGET)
    assert (answer.status_code, answer.content) == (202, b"")
    assert (await client.get("/v2/_catalog")).json() == {"repositories": [f"{NAME}/below"]}
    for target in ("manifests/v1", f"manifests/{BUILT.digest}", "tags/list", f"blobs/{BUILT.blobs[0].digest}"):
        assert (await client.get(f"/v2/{NAME}/{target}")).status_code == 404, target
    assert (await client.manifest("v1", name=f"{NAME}/below")).status_code == 200
    again = await client.send("DELETE", TARGET)
    assert (again.status_code, codes(again)) == (404, ["NAME_UNKNOWN"])
    await client.push(BUILT, "v2")
    assert NAME in (await client.get("/v2/_catalog")).json()["repositories"]


@pytest.mark.parametrize(
    ("storage", "status"),
    [
        (Storage(), 405),
        (Storage(delete=Delete(enabled=True), maintenance=Maintenance(readonly=ReadOnly(enabled=True))), 405),
    ],
    ids=["not enabled", "read-only"],
)
async def test_a_deletion_that_is_not_allowed_changes_nothing(serve: Serve, storage: Storage, status: int) -> None:
    """The setting that forbids the deletion of a tag forbids that of all of them."""
    driver = MemoryDriver()
    await serve(driver=driver).push(BUILT, "v1")
    answer = await serve(Settings(storage=storage), driver=driver).send("DELETE", TARGET)
    assert (answer.status_code, codes(answer)) == (status, ["UNSUPPORTED"])
    assert (await serve(driver=driver).manifest("v1")).status_code == 200


async def test_an_invalid_name_is_refused(client: Client) -> None:
    """With the code that other endpoints use."""
    answer = await client.send("DELETE", "/v2/UPPER/_moorage/repository/content")
    assert (answer.status_code, codes(answer)) == (404, ["NAME_INVALID"])


async def test_other_methods_are_not_offered(client: Client) -> None:
    """A GET by a browser must not look like an empty repository."""
    answer = await client.get(TARGET)
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE")


async def test_a_deleted_repository_can_be_restored(serve: Serve) -> None:
    """The default of storage.delete.undo applies to the API."""
    driver = MemoryDriver()
    client = serve(driver=driver)
    await client.push(BUILT, "v1")
    assert (await client.send("DELETE", TARGET)).status_code == 202
    restorer = Restorer(driver)
    await restorer.repository(NAME)  # type: ignore[arg-type]  # a valid name
    await restorer.close()
    assert (await client.manifest("v1")).content == BUILT.data
