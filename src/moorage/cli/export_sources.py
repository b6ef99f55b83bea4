"""Images of an export by their names: in one registry, or each in the registry that its name has."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from moorage.bundle.export import ExportedImage
    from moorage.cli.bundles import BundleAccess
    from moorage.replication.endpoints import ImageSource
    from moorage.types import Reference, RepoName, Tag
    from moorage.upstream.reference import ImageName

__all__ = ["ImageFinder"]


class ImageFinder:
    """Finds images; `source` is the one registry, None for that of each name."""

    def __init__(self, access: BundleAccess, stack: AsyncExitStack, source: ImageSource | None) -> None:
        self._access = access
        self._stack = stack
        self._source = source
        self._by_host: dict[str, ImageSource] = {}

    @classmethod
    async def opened(cls, access: BundleAccess, stack: AsyncExitStack) -> ImageFinder:
        """Return a finder whose connections `stack` closes.  Raises StartupError."""
        if access.config is not None:
            from moorage.replication.local import LocalSource

            registry = await stack.enter_async_context(access.store(writes=False))
            return cls(access, stack, LocalSource(registry))
        finder = cls(access, stack, None)
        if access.registry is not None:
            finder._source = finder._remote(access.registry)
        return finder

    def _remote(self, address: str) -> ImageSource:
        from moorage.replication.remote import RemoteSource

        client = self._access.client(address)
        self._stack.push_async_callback(client.close)
        return RemoteSource(client)

    async def find(self, text: str, *, all_tags: bool) -> list[ExportedImage]:
        """Return the image of a name, or one for each of its tags.  Raises NameRefused, ImageMissing."""
        from moorage.bundle.errors import NameRefused
        from moorage.bundle.export import ExportedImage
        from moorage.types import RepoName
        from moorage.upstream.reference import ImageName, ReferenceInvalid

        try:
            image = ImageName.parse(text)
        except ReferenceInvalid as error:
            raise NameRefused(str(error)) from None
        if all_tags and (image.tag or image.digest):
            raise NameRefused(f"{text}: with --all-tags, images are named without a tag")
        if self._source is None:
            if image.registry not in self._by_host:
                self._by_host[image.registry] = self._remote(image.registry)
            source, name = self._by_host[image.registry], image.name
            found = RepoName(f"{image.registry}/{image.name}")  # an unusual name: a host may have a port
            references = await _references(source, name, image, all_tags=all_tags)
        else:
            source = self._source
            name, references = await self._search(source, text, image, all_tags=all_tags)
            found = name
        return [ExportedImage(source, name, reference, found, tag) for reference, tag in references]

    async def _search(
        self, source: ImageSource, text: str, image: ImageName, *, all_tags: bool
    ) -> tuple[RepoName, list[tuple[Reference, Tag | None]]]:
        """Return the first repository that has the image: as written, with its host, without it."""
        from moorage.errors import ManifestUnknown, NameInvalid, NameUnknown
        from moorage.replication.errors import ImageMissing
        from moorage.types import parse_repo_name

        tried: list[str] = []
        for candidate in dict.fromkeys((_without_tag(text), f"{image.registry}/{image.name}", image.name)):
            try:
                name = parse_repo_name(candidate)
                return name, await _references(source, name, image, all_tags=all_tags)
            except NameInvalid:
                continue
            except (ManifestUnknown, NameUnknown):
                tried.append(candidate)
        raise ImageMissing(
            f"{source.title} has no image {text}" + (f" (tried {', '.join(tried)})" if len(tried) > 1 else "")
        )


def _without_tag(text: str) -> str:
    name = text.partition("@")[0]
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}"


async def _references(
    source: ImageSource, name: RepoName, image: ImageName, *, all_tags: bool
) -> list[tuple[Reference, Tag | None]]:
    """Return references in the source with tags in the bundle.  Raises ManifestUnknown, NameUnknown."""
    from moorage.errors import NameUnknown

    if all_tags:
        found: list[tuple[Reference, Tag | None]] = []
        async for page in source.list_tags(name):
            found += [(tag, tag) for tag in page]
        if not found:
            raise NameUnknown(name)
        return found
    if image.digest is not None:
        await source.get_manifest(name, image.digest)
        return [(image.digest, image.tag)]
    from moorage.types import parse_tag

    tag = image.tag or parse_tag("latest")
    await source.resolve(name, tag)
    return [(tag, tag)]
