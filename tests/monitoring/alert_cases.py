"""Series that make each alert of deploy/monitoring/alerts.yml fire, and others, in promtool's notation.

A series `a+bxn` begins at a and grows by b for n minutes; `_` is a missing sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CASES", "Case"]

TARGET: Final = 'job="registry",instance="a:5001"'
_REQUESTS: Final = "registry_http_requests_total"
_DURATION: Final = "registry_http_request_duration_seconds_bucket"
_ACTION: Final = "registry_storage_action_seconds_bucket"
_ERRORS: Final = "moorage_storage_errors_total"
_END: Final = "moorage_tls_certificate_expiry_timestamp_seconds"
_LAG: Final = "moorage_event_loop_lag_seconds_bucket"
_DAY_S: Final = 86400
_SIZE: Final = {
    f"moorage_storage_size_bytes{{{TARGET}}}": "1000x900",
    f"moorage_storage_inodes{{{TARGET}}}": "1000x900",
}


@dataclass(frozen=True)
class Case:
    """`fires` and `quiet` are series by name; `labels` are those of the alert besides name, state and severity.

    The rules are evaluated every minute, and looked at `after` minutes.
    """

    alert: str
    fires: dict[str, str]
    quiet: dict[str, str]
    labels: str = TARGET
    after: int = 30


def _slow(name: str, labels: str, slow: str, fast: str) -> tuple[dict[str, str], dict[str, str]]:
    """A histogram of which all observations lie above the bound `slow`, and one of which all lie below `fast`."""

    def buckets(last_empty: str) -> dict[str, str]:
        bounds = ("0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf")
        return {
            f'{name}{{{TARGET},{labels}le="{bound}"}}': (
                "0x120" if _number(bound) <= _number(last_empty) else "0+60x120"
            )
            for bound in bounds
        }

    return buckets(slow), buckets(fast)


def _number(bound: str) -> float:
    return float(bound.replace("+Inf", "inf"))


def _errors(broken: str) -> dict[str, str]:
    """5xx, probes that fail, and requests that succeed."""
    return {
        f'{_REQUESTS}{{{TARGET},handler="blob",code="500",method="get"}}': broken,
        f'{_REQUESTS}{{{TARGET},handler="health",code="503",method="get"}}': "0+60x120",
        f'{_REQUESTS}{{{TARGET},handler="manifest",code="200",method="get"}}': "0+60x120",
    }


def _cache(hits: str, requested: str) -> dict[str, str]:
    return {
        f'moorage_cache_hits_total{{{TARGET},cache="blobs"}}': hits,
        f'moorage_cache_requests_total{{{TARGET},cache="blobs"}}': requested,
    }


def _case(alert: str, slow: tuple[dict[str, str], dict[str, str]], labels: str) -> Case:
    return Case(alert, slow[0], slow[1], labels)


CASES: Final = (
    Case("RegistryDown", {f"up{{{TARGET}}}": "0x60"}, {f"up{{{TARGET}}}": "1x29 0x5"}),
    Case("RegistryAbsent", {'up{job="other"}': "1x60"}, {f"up{{{TARGET}}}": "0x60"}, 'job="registry"'),
    Case(
        "RegistryUnhealthy",
        {f'moorage_health_check_failing{{{TARGET},check="storage"}}': "_x20 1x20"},
        {f'moorage_health_check_failing{{{TARGET},check="storage"}}': "1x20 _x20"},
        f'{TARGET},check="storage"',
    ),
    Case("RegistryErrors", _errors("0+2x120"), _errors("0x20 1x100"), 'job="registry"'),
    _case("RegistryPullsSlow", _slow(_DURATION, 'handler="blob",method="get",', "1", "0.5"), 'job="registry"'),
    _case(
        "RegistryPushesSlow", _slow(_DURATION, 'handler="manifest",method="put",', "2.5", "1"), 'job="registry"'
    ),
    _case(
        "RegistryStorageSlow",
        _slow(_ACTION, 'driver="s3",action="Commit",', "1", "0.5"),
        'job="registry",driver="s3",action="Commit"',
    ),
    Case(
        "RegistryStorageErrors",
        {f'{_ERRORS}{{{TARGET},driver="s3",action="Stat",kind="unavailable"}}': "0+2x60"},
        {f'{_ERRORS}{{{TARGET},driver="s3",action="Stat",kind="unavailable"}}': "0x20 3x40"},
        f'{TARGET},driver="s3"',
    ),
    Case(
        "RegistryStorageFull",
        {f'{_ERRORS}{{{TARGET},driver="filesystem",action="Commit",kind="full"}}': "_x28 1x10"},
        {
            f'{_ERRORS}{{{TARGET},driver="filesystem",action="Commit",kind="full"}}': "1x60",
            f'{_ERRORS}{{{TARGET},driver="filesystem",action="Stat",kind="unavailable"}}': "0+9x60",
        },
    ),
    Case(
        "RegistryStorageUnwritable",
        {f"moorage_storage_writable{{{TARGET}}}": "1x20 0x20"},
        {f"moorage_storage_writable{{{TARGET}}}": "0x20 1x20"},
    ),
    Case(
        "RegistryStorageFillsUp",
        {**_SIZE, f"moorage_storage_free_bytes{{{TARGET}}}": "800-1x700"},
        {**_SIZE, f"moorage_storage_free_bytes{{{TARGET}}}": "300-0.01x900"},
        after=600,
    ),
    Case(
        "RegistryInodesRunOut",
        {**_SIZE, f"moorage_storage_free_inodes{{{TARGET}}}": "800-1x700"},
        {**_SIZE, f"moorage_storage_free_inodes{{{TARGET}}}": "900-0.5x700"},
        after=600,
    ),
    Case(
        "RegistryStorageAlmostFull",
        {
            **_SIZE,
            f"moorage_storage_free_bytes{{{TARGET}}}": "40x60",
            f"moorage_storage_free_inodes{{{TARGET}}}": "900x60",
        },
        {
            **_SIZE,
            f"moorage_storage_free_bytes{{{TARGET}}}": "90x60",
            f"moorage_storage_free_inodes{{{TARGET}}}": "900x60",
        },
    ),
    Case(
        "RegistryCertificateEnds",
        {f"{_END}{{{TARGET}}}": f"{13 * _DAY_S}x90"},
        {f"{_END}{{{TARGET}}}": f"{15 * _DAY_S}x90"},
        after=90,
    ),
    Case(
        "RegistryCertificateEndsSoon",
        {f"{_END}{{{TARGET}}}": f"{1 * _DAY_S}x90"},
        {f"{_END}{{{TARGET}}}": f"{3 * _DAY_S}x90"},
    ),
    Case(
        "RegistryCacheMisses",
        _cache("0+100x180", "0+1200x180"),
        _cache("0+900x180", "0+1200x180"),
        'job="registry",cache="blobs"',
        after=120,
    ),
    _case("RegistryEventLoopLag", _slow(_LAG, "", "0.25", "0.1"), TARGET),
    Case(
        "RegistryWorkerUnresponsive",
        {f"moorage_workers_unresponsive{{{TARGET}}}": "0x20 1x20"},
        {f"moorage_workers_unresponsive{{{TARGET}}}": "1x20 0x20"},
    ),
    Case(
        "RegistryLoginFailures",
        {f'moorage_auth_failures_total{{{TARGET},reason="wrong"}}': "0+90x60"},
        {
            f'moorage_auth_failures_total{{{TARGET},reason="missing"}}': "0+900x60",
            f'moorage_auth_failures_total{{{TARGET},reason="wrong"}}': "0+6x60",
        },
        'job="registry"',
    ),
)
