"""`log`: what is written, where and how."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from moorage.config.sections.base import Flag, Section, Text, one_of, setting

__all__ = ["AccessLog", "Hook", "Log", "MailOptions", "Smtp"]

Level = Annotated[
    Literal["error", "warn", "info", "debug"], one_of("error", "warn", "info", "debug", fold=True, empty="info")
]


class AccessLog(Section):
    """One line per request, in Apache's combined format, on standard output."""

    disabled: Flag = setting(False, "Write no access log.")
    probes: Flag = setting(
        False,
        "Write a line also for each probe: a GET or HEAD of `/livez`, `/readyz` or `/` that is answered 200.",
        ours=True,
    )


class Smtp(Section):
    """The mail server of a hook."""

    addr: Text = setting(
        "", "`host:port` of the mail server; IPv6 in brackets. Port 465 is TLS from the start, others by STARTTLS."
    )
    username: Text = setting("", "User name for the mail server.")
    password: Text = setting("", "Password for the mail server; sent over TLS, or to this machine.", secret=True)
    insecure: Flag = setting(False, "Do not verify the mail server's certificate.")


class MailOptions(Section):
    """A mail."""

    smtp: Smtp = setting(Smtp, "The mail server.")
    from_: Text = setting("", "Sender.")
    to: tuple[Text, ...] = setting((), "Receivers.")


class Hook(Section):
    """Something told of log lines of some levels."""

    type: Text = setting("", "Kind of hook; `mail` is the only one.")
    disabled: Flag = setting(False, "Leave this hook out.")
    levels: tuple[Text, ...] = setting(
        (),
        "Levels that the hook is told of: `panic` (fatal, and errors with a traceback), `fatal`, `error`, "
        "`warning`, `info`, `debug`.",
    )
    options: MailOptions = setting(MailOptions, "The mail to send.", variable="MAILOPTIONS")


class Log(Section):
    """The application log goes to standard error, the access log to standard output."""

    level: Level = setting("info", "Least level that is logged: `error`, `warn`, `info` or `debug`, in any case.")
    formatter: Annotated[Literal["text", "json", "logstash"], one_of("text", "json", "logstash", empty="text")] = (
        setting("text", "Format of the application log.")
    )
    fields: Mapping[str, Any] = setting(dict, "Fields added to every line of the application log.")
    accesslog: AccessLog = setting(AccessLog, "The access log.")
    reportcaller: Flag = setting(False, "Add source file and function to every line.")
    hooks: tuple[Hook, ...] = setting((), "Hooks told of log lines.")
