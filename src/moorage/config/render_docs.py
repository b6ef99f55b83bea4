"""Renders the page of all settings from the models: `python -m moorage.config.render_docs > docs/settings.md`."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Any, Final

from moorage.config.critical_keys import CRITICAL
from moorage.config.model import Settings
from moorage.config.scalars import format_duration
from moorage.config.schema import Key, ListOf, MapOf, Raw, ScalarOf, SectionOf, Shape, keys_of
from moorage.config.unsupported import LATER

if TYPE_CHECKING:
    from moorage.config.sections.base import Section

__all__ = ["document"]

_OPENING: Final = """\
# Settings

<!-- Rendered by `python -m moorage.config.render_docs`; change the models in src/moorage/config/sections. -->

Moorage reads the configuration of CNCF Distribution (`registry:2` and `registry:3`): the same YAML file, the same
`REGISTRY_*` variables. `moorage config check` reports every problem of a configuration, and `moorage config show`
prints the settings in force, with secrets masked.

## Where they come from

1. The file named on the command line; else the one that `REGISTRY_CONFIGURATION_PATH` names; else
   `/etc/docker/registry/config.yml`; else `/etc/distribution/config.yml`; else none. Without a file, Moorage keeps
   its data in the user's data directory (`$XDG_DATA_HOME/moorage` or `~/.local/share/moorage`; for root
   `/var/lib/registry` if there is one), listens on `127.0.0.1:5000`, caches blob sizes in memory and has no
   authentication. `moorage serve --defaults` reads no file, even if there is one.
2. `REGISTRY_*` variables replace values of the file.
3. All other settings have the defaults listed here.

An unknown key causes a warning that names the most similar known key; for `moorage config check` it is an
error. A key marked **Later** belongs to a feature that this version does not support: if it is enabled, the
registry does not start. Keys marked *Moorage only* are unknown to CNCF Distribution, which ignores them.

If a protection is not configured, an unknown key that may have been meant for it is an error, in any spelling
(keys that begin with `x-` or a dot may hold anchors):

| Unknown key | Error unless |
|---|---|
| at the top level (`basicauth:`) | there is authentication, or `auth: none` |
| in `http` (`tlsconfig:`) or `http.tls` | there is TLS, or `tls: {}` |
| in `auth` or `storage`, as provider or driver | never |
| in `storage.filesystem` (`data:`) | there is a `rootdirectory` |
| the only key of a section listed below (`readonly: {active: true}`) | the section has a known key |

A near miss of another known key (`healht:`) is a warning. So are all unknown keys in a file that configures
authentication, TLS and the data directory, except for those that are similar to a key listed below, or contain it
with dots: `atuh:`, `Tls:`, `root-directory:`, `tls.certificate:` and such a key in a wrong section (`tls` beside
`http`) are errors. So are variables similar to one: `REGISTRY_ATUH`, `REGISTRY_TLS_CERTIFICATE`,
`registry_auth_htpasswd_path`. A `tls` section with settings that do not enable TLS is an error, and a warning
if they are the defaults. The keys, each with all keys below it, are:

{critical}.

## The file

One YAML document that begins with `version: 0.1`. The dialect is that of CNCF Distribution (YAML 1.1 as Go's
yaml.v2 reads it): `yes`, `no`, `on` and `off` are true and false, `12:30` is text, `1e3` is a number, anchors and
merges work. Duplicate keys and further documents in the file are errors: CNCF Distribution silently uses the last
of the keys and the first of the documents. Text keeps its spelling (`secret: 0123` is the text 0123), except in
the parameters of drivers and of authentication, where it is resolved first (0123 is 83): quote it there.

Durations are written as `300ms`, `10s`, `5m` or `1h30m`. In keys of CNCF Distribution a number without a unit is
nanoseconds, with a warning; in `storage.maintenance.uploadpurging` and in keys of Moorage it is refused.

## Variables

`http.tls.key` is `REGISTRY_HTTP_TLS_KEY`. The value is YAML: `[a, b]` is a list, `{k: v}` a mapping; text with
`#`, `: ` or a special first character is quoted inside the value: `REGISTRY_HTTP_SECRET='"p#ss: word"'`. An empty
value is the default. If variables remove authentication, TLS, CAs of client certificates or
`storage.filesystem.rootdirectory` of the file, the registry does not start, and the error names the variables;
`REGISTRY_AUTH=none`, `REGISTRY_HTTP_TLS={}` and `REGISTRY_HTTP_TLS_CLIENTCAS=[]` remove them explicitly. An empty
variable that clears another key of the list above, such as `http.secret`, is a warning.

* Elements of lists are counted from 0: `REGISTRY_HEALTH_TCP_0_ADDR=db:5432`. The next number appends an element.
* `REGISTRY_STORAGE=inmemory`, or any variable of a driver (`REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY`), selects
  that driver, also if the file has another one, and keeps the other keys of `storage`. `auth` behaves likewise.
* Names of headers are compared without case: `REGISTRY_HTTP_HEADERS_X-FRAME-OPTIONS='[deny]'`.
* Keys with an underscore keep it: `REGISTRY_STORAGE_AZURE_MAX_RETRIES`.
* Where the variable of CNCF Distribution is not named after the key, both names work:

{spellings}

* Variables that Kubernetes adds for a service called `registry-...` (`REGISTRY_STORAGE_SERVICE_HOST`,
  `REGISTRY_PORT=tcp://...`) are ignored with a warning, as is podman's `REGISTRY_AUTH_FILE`.

### Values in files

`REGISTRY_HTTP_SECRET_FILE=/run/secrets/http-secret` sets `http.secret` to the content of that file; every setting
has such a variable. With secrets of Swarm, Compose, Kubernetes or systemd, no password is in a variable, where
`docker inspect` would show it. CNCF Distribution does not support it.

```yaml
services:
  registry:
    environment:
      REGISTRY_HTTP_SECRET_FILE: /run/secrets/http-secret
      REGISTRY_STORAGE_S3_SECRETKEY_FILE: /run/secrets/s3
    secrets: [http-secret, s3]
```

| Kind of the setting | Content |
|---|---|
| text | the text, without one newline at its end; not YAML: `0123`, `yes`, `a: b`, `*x` and quotes are unchanged |
| flag, number, duration, one of several words | the value, as in a variable |
| list, mapping, section | YAML, as in a variable; `REGISTRY_HTTP_HEADERS_X-NAME_0_FILE` is one text of a list |

* A setting and its `_FILE` together are an error. So is a file that is missing, empty, a directory, not readable
  by the registry's user, or not UTF-8. No message shows the content of the file.
* Keys that end in `file` keep their meaning: `REGISTRY_HEALTH_FILECHECKERS_0_FILE` is `health.file[0].file`,
  `REGISTRY_STORAGE_GCS_KEYFILE` is the path of the key. For settings that are paths, such as `http.tls.key`, set
  the path: `REGISTRY_HTTP_TLS_KEY=/run/secrets/registry.key`. `REGISTRY_HTTP_TLS_KEY_FILE` is a file that contains
  that path; a file that contains the key is refused.
* SIGHUP reloads the files.
"""


def document() -> str:
    """Return the page in MyST Markdown."""
    critical = [f"`{key}`" for key in CRITICAL]
    listed = textwrap.fill(f"{', '.join(critical[:-1])} and {critical[-1]}", 110, break_on_hyphens=False)
    parts = [_OPENING.replace("{spellings}", _spellings()).replace("{critical}", listed)]
    small = [key for key in keys_of(Settings).values() if not isinstance(key.shape, SectionOf) and not key.instead]
    parts.append("## Top level\n\n" + _table(small, ()))
    parts += [
        _section(key, key.shape.model, (key.name,))
        for key in keys_of(Settings).values()
        if isinstance(key.shape, SectionOf)
    ]
    parts.append("## Deprecated keys\n\nThey are read, with a warning.\n\n" + _deprecated())
    return "\n".join(parts)


def _spellings() -> str:
    lines = ["  | Key | Also |", "  |---|---|"]
    for path, variable in _named(Settings, (), ()):
        lines.append(f"  | `{'.'.join(path)}` | `REGISTRY_{'_'.join(variable)}...` |")
    lines.append("  | `redis.*` | `REGISTRY_REDIS_OPTIONS_...` |")
    return "\n".join(lines)


def _named(
    model: type[Section], path: tuple[str, ...], variable: tuple[str, ...]
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return the keys whose variable has another name in CNCF Distribution."""
    found = []
    for key in keys_of(model).values():
        shape, step = key.shape, (key.variable or key.name).upper()
        here, spelt = (*path, key.name), (*variable, step)
        if isinstance(shape, ListOf):
            shape, spelt = shape.item, (*spelt, "0")
        if key.variable:
            found.append((here, spelt))
        elif isinstance(shape, SectionOf):
            found += _named(shape.model, here, spelt)
    return found


def _section(key: Key, model: type[Section], path: tuple[str, ...]) -> str:
    """Return heading and table of a section, then its sections."""
    title = "#" * min(1 + len(path), 6) + f" `{'.'.join(path)}`"
    text = f"{title}\n\n{key.meaning}{_mark(path)}\n"
    keys = [inner for inner in keys_of(model).values() if inner.instead is None]
    plain = [inner for inner in keys if _model(inner.shape) is None]
    if plain:
        text += "\n" + _table(plain, path)
    parts = [text]
    for inner in keys:
        below = _model(inner.shape)
        if below is not None:
            name = f"{inner.name}[]" if isinstance(inner.shape, ListOf) else inner.name
            parts.append(_section(inner, below, (*path, name)))
    return "\n".join(parts)


def _model(shape: Shape) -> type[Section] | None:
    if isinstance(shape, ListOf):
        shape = shape.item
    return shape.model if isinstance(shape, SectionOf) else None


def _table(keys: list[Key], path: tuple[str, ...]) -> str:
    rows = ["| Key | Kind | Default | Meaning |", "|---|---|---|---|"]
    for key in keys:
        here = (*path, key.name)
        notes = " *Moorage only.*" if key.own else ""
        kind = _kind(key.shape) + (f" ({key.unit})" if key.unit and key.unit != "duration" else "")
        rows.append(f"| `{'.'.join(here)}` | {kind} | {_default(key)} | {key.meaning}{notes}{_mark(here)} |")
    return "\n".join(rows) + "\n"


def _mark(path: tuple[str, ...]) -> str:
    """Return the mark of an unsupported feature."""
    dotted = ".".join(path).replace("[]", "")
    return " **Later.**" if any(dotted == key for later in LATER for key in later.keys) else ""


def _kind(shape: Shape) -> str:
    match shape:
        case ScalarOf(reader):
            return reader.kind
        case ListOf(item):
            return f"list of {_kind(item)}"
        case MapOf(value):
            return f"mapping of names to {_kind(value)}"
        case SectionOf():
            return "mapping"
        case Raw():
            return "anything"


def _default(key: Key) -> str:
    if key.required:
        return "required"
    if key.shown is not None:
        return key.shown
    value: Any = key.default
    if isinstance(key.shape, ScalarOf) and key.shape.reader.kind == "duration" and value is not None:
        return f"`{format_duration(value)}`"
    match value:
        case None | "" | ():
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case _:
            return f"`{value}`"


def _deprecated() -> str:
    rows = ["| Deprecated | Use |", "|---|---|"]
    for path, key in _deprecated_keys(Settings, ()):
        rows.append(f"| `{'.'.join(path)}` | `{key.instead}` |")
    return "\n".join(rows) + "\n"


def _deprecated_keys(model: type[Section], path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Key]]:
    found = []
    for key in keys_of(model).values():
        if key.instead is not None and key.name != "pool":
            found.append(((*path, key.name), key))
        elif isinstance(key.shape, SectionOf):
            found += _deprecated_keys(key.shape.model, (*path, key.name))
    return found


if __name__ == "__main__":
    sys.stdout.write(document())
