"""`moorage auth`: explains the policy of `auth.local`, and makes secrets for robots."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  Typer reads the annotation
from typing import TYPE_CHECKING, Annotated

import typer

from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation

if TYPE_CHECKING:
    from moorage.auth.access import Need
    from moorage.auth.local.policy import AccessPolicy, Identity
    from moorage.config.sections.services import Local

__all__ = ["app"]

app = typer.Typer(help="Explain the access rules, and make secrets for robots.", no_args_is_help=True,
                  rich_markup_mode=None)  # fmt: skip

_USER_HELP = "A user, robot+NAME, anonymous, or issuer:NAME with --claim."


@app.command("explain", short_help="Report whether a user may do something, and why.")
def explain(
    user: Annotated[str, typer.Argument(metavar="USER", help=_USER_HELP)],
    action: Annotated[str, typer.Argument(metavar="ACTION", help="pull, push, delete, or catalog.")],
    repository: Annotated[str, typer.Argument(metavar="REPOSITORY", help="Its name; - for catalog.")],
    config: Config = None,
    claim: Annotated[
        list[str] | None, typer.Option("--claim", metavar="NAME=VALUE", help="A claim of the issuer's token.")
    ] = None,
) -> None:
    """Report whether `auth.local` allows a user an action, and by which rules; exit status 1 if not.

    Pushing needs pull as well; another rule may grant it.

    Example: moorage auth explain anonymous pull library/app
    """
    from moorage.auth.access import CATALOG, Need
    from moorage.auth.local.policy import ACTIONS
    from moorage.errors import NameInvalid
    from moorage.types import parse_repo_name

    if action == "catalog":
        needs = [CATALOG]
    elif action not in ACTIONS:
        raise typer.BadParameter(f"expected {', '.join(ACTIONS)} or catalog", param_hint="ACTION")
    else:
        try:
            name = parse_repo_name(repository)
        except NameInvalid as error:
            raise typer.BadParameter("is no name of a repository", param_hint="REPOSITORY") from error
        needs = [Need("repository", name, each) for each in (["pull", "push"] if action == "push" else [action])]

    local, policy = _policy(config)
    identity, outside = _identity(user, claim or [], policy, local.users)
    grants = policy.grants_of(identity)
    may = not outside and all(grants.allows(need) for need in needs)
    what = "list the repositories" if needs == [CATALOG] else f"{action} {repository}"
    typer.echo(f"{'allowed' if may else 'refused'}: {user} may {'' if may else 'not '}{what}")
    if outside:
        typer.echo(f"  {outside}")
    for need in needs:
        _explain(need, identity, policy)
    if not may:
        raise typer.Exit(1)


def _explain(need: Need, identity: Identity, policy: AccessPolicy) -> None:
    """Print the rules that grant one need, or else those that concern this user."""
    action = need.action if need.type == "repository" else "catalog"
    because = policy.grants_of(identity).rules_granting(need)
    for rule in because:
        typer.echo(f"  {action}: granted by {rule.where} ({rule.summary})")
    if because:
        return
    near = policy.rules_for(identity)
    rest = "; those that concern this user are" if near else ", and none concerns this user"
    typer.echo(f"  {action}: no rule grants it{rest}")
    for rule in near:
        typer.echo(f"    {rule.where} ({rule.summary})")


def _policy(config: Path | None) -> tuple[Local, AccessPolicy]:
    """Return the policy that the file contains now; reports its errors and exits with status 1."""
    from moorage.auth.local.policy_file import read
    from moorage.cli.problems import load_or_exit, report

    loaded = load_or_exit(config)
    local = loaded.settings.auth.local
    if local is None:
        typer.echo(f"{loaded.source}: auth.local is not configured, so there is no policy to explain", err=True)
        raise typer.Exit(1)
    found = read(local.policy)
    if found.policy is None:
        report(found.problems)
        raise typer.Exit(1)
    return local, found.policy


def _identity(user: str, claims: list[str], policy: AccessPolicy, users: str) -> tuple[Identity, str]:
    """Return the identity of USER, and the reason why it cannot log in, "" if it can."""
    from datetime import UTC, datetime

    from moorage.auth.local.build import names_in
    from moorage.auth.local.policy import ANONYMOUS, ROBOT_PREFIX, Identity

    if user == "anonymous":
        return ANONYMOUS, ""
    if user.startswith("issuer:"):
        return _foreign(user.removeprefix("issuer:"), claims, policy)
    for prefix in (ROBOT_PREFIX, "robot:"):
        if user.startswith(prefix):
            name = user.removeprefix(prefix)
            robot = policy.robots.get(name)
            if robot is None:
                return Identity("robot", name), f"there is no robot {name!r}"
            over = f"its account ended on {robot.expires}" if robot.is_expired(datetime.now(UTC)) else ""
            return Identity("robot", name), over
    name = user.removeprefix("user:")
    names = names_in(users)
    exists = names is None or name in names
    return Identity("user", name), "" if exists else f"there is no user {name!r} in {users or 'any file'}"


def _foreign(name: str, claims: list[str], policy: AccessPolicy) -> tuple[Identity, str]:
    from moorage.auth.local.policy import Identity

    values: dict[str, tuple[str, ...]] = {}
    for text in claims:
        claim, sign, value = text.partition("=")
        if not sign:
            raise typer.BadParameter("expected NAME=VALUE", param_hint="--claim")
        values[claim] = (*values.get(claim, ()), value)
    identity = Identity("foreign", "", name, tuple(sorted(values.items())))
    if name not in policy.issuers:
        return identity, f"there is no issuer {name!r}"
    problem = "" if policy.has_rule_for(identity) else "no rule matches these claims: they grant no login"
    return identity, problem


@app.command("robot", short_help="Make a secret for a robot account.")
def robot(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The robot's name; it logs in as robot+NAME.")],
    expires: Annotated[
        str, typer.Option("--expires", metavar="WHEN", help="A duration such as 90d, a date, or never.")
    ] = "90d",
) -> None:
    """Make a secret for a robot: shown once, with the lines for the policy file, which hold only its digest.

    Example: moorage auth robot ci --expires 90d
    """
    from datetime import UTC, datetime

    from moorage.auth.local.policy import ROBOT_PREFIX
    from moorage.auth.local.policy_file import NAME
    from moorage.auth.local.robot_secrets import digest_of, make_secret, parse_term

    if NAME.fullmatch(name) is None:
        raise typer.BadParameter("expected letters, digits and . _ -", param_hint="NAME")
    try:
        end = parse_term(expires, datetime.now(UTC))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--expires") from error
    secret = make_secret()
    typer.echo(f"# user name: {ROBOT_PREFIX}{name}\n# secret, which is shown only now: {secret}", err=True)
    typer.echo(f"robots:\n  {name}:\n    secret: {digest_of(secret)}\n    expires: {end}")
