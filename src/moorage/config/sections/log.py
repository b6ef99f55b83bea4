"""`log`: application log, access log, log hooks."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from moorage.config.sections.base import Flag, Section, Text, one_of, setting

__all__ = ["AccessLog", "Hook", "Log", "MailOptions", "Smtp"]

Level = Annotated[
    Literal["error", "warn", "info", "debug"], one_of("error", "warn", "info", "debug", fold=True, empty="info")
]


class AccessLog(Section):
    """One line per request, in Apache's combined format, on standard output."""

    disabled: Flag = setting(False, "Disable the access log.")
    probes: Flag = setting(
        False,
        "Log probes too: GET and HEAD of `/livez`, `/readyz` or `/` with the status 200.",
        own=True,
    )


class Smtp(Section):
    """Mail server of a hook."""

    addr: Text = setting(
        "", "`host:port` of the mail server; IPv6 in brackets. Port 465 uses implicit TLS, others STARTTLS."
    )
    username: Text = setting("", "User name at the mail server.")
    password: Text = setting(
        "", "Password at the mail server; sent over TLS or to the local host only.", secret=True
    )
    insecure: Flag = setting(False, "Do not verify the mail server's certificate.")


class MailOptions(Section):
    """Mails of a hook."""

    smtp: Smtp = setting(Smtp, "Mail server.")
    from_: Text = setting("", "Sender.")
    to: tuple[Text, ...] = setting((), "Recipients.")


class Hook(Section):
    """Sends log lines of some levels by mail."""

    type: Text = setting("", "Kind of hook; `mail` is the only one.")
    disabled: Flag = setting(False, "Ignore this hook.")
    levels: tuple[Text, ...] = setting(
        (),
        "Levels that are sent: `panic` (fatal, and errors with a traceback), `fatal`, `error`, "
        "`warning`, `info`, `debug`.",
    )
    options: MailOptions = setting(MailOptions, "Mails.", variable="MAILOPTIONS")


class Log(Section):
    """The application log goes to standard error, the access log to standard output."""

    level: Level = setting("info", "Lowest level that is logged: `error`, `warn`, `info` or `debug`, in any case.")
    formatter: Annotated[Literal["text", "json", "logstash"], one_of("text", "json", "logstash", empty="text")] = (
        setting("text", "Format of the application log.")
    )
    fields: Mapping[str, Any] = setting(dict, "Fields added to every line of the application log.")
    accesslog: AccessLog = setting(AccessLog, "Access log.")
    reportcaller: Flag = setting(False, "Add source file and function to every line.")
    hooks: tuple[Hook, ...] = setting((), "Hooks that log lines are sent to.")
