"""`moorage htpasswd`: what people type from habit, beside Apache's program, and what is written."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import bcrypt
import pytest
from tests.live import require

from moorage.auth import htpasswd_write
from moorage.auth.password_file import parse
from moorage.cli import main

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HASH: Final = r"\$2y\$05\$[./A-Za-z0-9]{53}"


@dataclass
class Result:
    returncode: int
    stdout: bytes
    stderr: str


class Run(Protocol):
    def __call__(self, *arguments: str | Path, stdin: bytes = b"", typed: Sequence[str] | None = None) -> Result:
        """`typed`: what is answered to the prompts, one after the other."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    def call(*arguments: str | Path, stdin: bytes = b"", typed: Sequence[str] | None = None) -> Result:
        answers = iter(typed or ())
        prompts: list[str] = []

        def getpass(prompt: str) -> str:
            prompts.append(prompt)
            answer = next(answers, None)
            if answer is None:
                raise EOFError
            return answer

        with monkeypatch.context() as patch:
            patch.setattr("getpass.getpass", getpass)
            patch.setattr(sys, "argv", ["/usr/bin/registry", "htpasswd", *map(str, arguments)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            with pytest.raises(SystemExit) as ended:
                main()
        sys.stdout.flush()
        written = capfdbinary.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, written.out, "".join(prompts) + written.err.decode())

    return call


def users(path: Path) -> dict[bytes, bytes]:
    return dict(parse(path.read_bytes()).hashes)


def is_password(path: Path, user: bytes, password: bytes) -> bool:
    return bcrypt.checkpw(password, users(path)[user])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A comment, and alice with "secret"."""
    path = tmp_path / "htpasswd"
    path.write_bytes(b"# staff\n" + htpasswd_write.entry(b"alice", b"secret", 4) + b"\n\nold:$apr1$a$b\n")
    path.chmod(0o640)
    return path


def test_the_line_of_the_reference_s_manual_is_printed(run: Run) -> None:
    """`docker run --entrypoint htpasswd httpd:2 -Bbn testuser testpassword > auth/htpasswd`, in one line."""
    result = run("-Bbn", "testuser", "testpassword")
    assert (result.returncode, result.stderr) == (0, "")
    found = re.fullmatch(rb"testuser:(" + HASH.encode() + rb")\n\n", result.stdout)
    assert found is not None
    assert bcrypt.checkpw(b"testpassword", found[1])


@pytest.mark.parametrize(
    "arguments",
    [("-Bbn",), ("-B", "-b", "-n"), ("-nb",), ("-Bbn", "-C", "5"), ("-BbnC5",), ("-Bbn", "--")],
)
def test_flags_are_joined_as_people_join_them(run: Run, arguments: tuple[str, ...]) -> None:
    """Bcrypt is used without -B, too: Apache's default never matches in a registry."""
    result = run(*arguments, "-user", "-pass") if arguments[-1] == "--" else run(*arguments, "user", "-pass")
    assert result.returncode == 0
    assert re.fullmatch(rb"-?user:" + HASH.encode() + rb"\n\n", result.stdout)


def test_a_file_is_made_and_users_are_added_changed_and_deleted(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "htpasswd"
    assert run("-Bbc", path, "alice", "one").stderr == "Adding password for user alice\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert run("-Bb", path, "bob", "two").stderr == "Adding password for user bob\n"
    assert run("-Bb", path, "alice", "three").stderr == "Updating password for user alice\n"
    assert list(users(path)) == [b"alice", b"bob"]
    assert is_password(path, b"alice", b"three")
    assert is_password(path, b"bob", b"two")
    result = run("-D", path, "alice")
    assert (result.returncode, result.stderr) == (0, "Deleting password for user alice\n")
    assert list(users(path)) == [b"bob"]
    assert run("-Bbc", path, "carol", "new").returncode == 0
    assert list(users(path)) == [b"carol"], "-c begins anew, as Apache's does"


def test_what_else_is_in_the_file_stays(run: Run, file: Path) -> None:
    """Comments, empty lines, other schemes; and the mode, or the server could not read it any more."""
    before = file.read_bytes().splitlines()
    assert run("-Bb", file, "alice", "new").returncode == 0
    after = file.read_bytes().splitlines()
    assert after[1].startswith(b"alice:$2y$05$")
    assert after[:1] + after[2:] == before[:1] + before[2:]
    assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in file.parent.iterdir()) == ["htpasswd"]


def test_a_user_is_not_glued_to_a_line_without_an_end(run: Run, tmp_path: Path) -> None:
    """The file that the reference makes has none."""
    path = tmp_path / "htpasswd"
    path.write_bytes(htpasswd_write.entry(b"docker", b"x", 4))
    assert run("-Bb", path, "alice", "secret").returncode == 0
    assert list(users(path)) == [b"docker", b"alice"]


def test_a_link_stays_a_link(run: Run, file: Path) -> None:
    """The configured path may be a link to a file in another directory."""
    link = file.with_name("link")
    link.symlink_to(file)
    assert run("-Bb", link, "bob", "b").returncode == 0
    assert link.is_symlink()
    assert is_password(file, b"bob", b"b")


def test_a_write_that_fails_leaves_the_file_and_no_rest(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk must not lock all users out."""
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moorage.auth.htpasswd_write.os.fsync", full)
    result = run("-Bb", file, "bob", "b")
    assert (result.returncode, result.stderr) == (
        1,
        f"htpasswd: cannot modify file {file}: No space left on device\n",
    )
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["htpasswd"]


def test_without_a_terminal_the_message_names_the_option(file: Path) -> None:
    """In a script or `docker run` without -t; Python's own warning quotes its source."""
    command = [sys.executable, "-c", "from moorage.cli import main; main()", "htpasswd", "-B", str(file), "bob"]
    done = subprocess.run(command, input=b"hush\n", capture_output=True, check=False, start_new_session=True)
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr == (
        b"htpasswd: there is no terminal to type the password on; pass it on standard input with -i\n"
    )


def test_a_password_is_asked_for_twice(run: Run, file: Path) -> None:
    result = run("-B", file, "bob", typed=["hush", "hush"])
    assert (result.returncode, result.stderr) == (
        0,
        "New password: Re-type new password: Adding password for user bob\n",
    )
    assert is_password(file, b"bob", b"hush")
    result = run("-B", file, "bob", typed=["hush", "hash"])
    assert result.returncode == 3
    assert result.stderr.endswith("htpasswd: password verification error\n")
    assert run("-B", file, "bob", typed=["hush"]).returncode == 3
    assert run("-B", file, "bob").stderr.endswith("htpasswd: no password was given\n")
    assert is_password(file, b"bob", b"hush")


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_password_comes_from_standard_input(run: Run, file: Path, end: bytes) -> None:
    """`vault read ... | moorage htpasswd -Bi FILE USER`: it is in no process list."""
    assert run("-Bi", file, "bob", stdin="größe".encode() + end).returncode == 0
    assert is_password(file, b"bob", "größe".encode())


def test_a_password_is_verified(run: Run, file: Path) -> None:
    assert run("-vb", file, "alice", "secret").stderr == "Password for user alice correct.\n"
    assert run("-v", file, "alice", typed=["secret"]).returncode == 0
    wrong = run("-vb", file, "alice", "wrong")
    assert (wrong.returncode, wrong.stderr) == (3, "password verification failed\n")
    nobody = run("-vb", file, "nobody", "x")
    assert (nobody.returncode, nobody.stderr) == (6, "User nobody not found\n")
    file.write_bytes(b"old:$apr1$a$b\n")
    old = run("-vb", file, "old", "x")
    assert old.returncode == 3
    assert "MD5 (apr1), which never matches" in old.stderr


@pytest.mark.parametrize("flag", ["-m", "-d", "-s", "-p", "-2", "-5", "-mb", "-bs"])
def test_other_schemes_are_refused_with_what_to_use(run: Run, file: Path, flag: str) -> None:
    """Written all the same, their users would never get in."""
    before = file.read_bytes()
    result = run(flag, file, "alice", "x")
    assert (result.returncode, result.stdout) == (2, b"")
    assert "never matches in a registry; leave it out: bcrypt (-B) is what is used" in result.stderr
    assert file.read_bytes() == before


@pytest.mark.parametrize("user", ["", " a", "a ", "#a", "a\nb", "a\tb"])
def test_a_name_that_cannot_be_read_back_is_refused(run: Run, user: str) -> None:
    """An unset variable, or a newline with which a second user would come in."""
    result = run("-Bbn", user, "x")
    assert (result.returncode, result.stdout) == (6, b"")


def test_what_bcrypt_does_not_see_is_told(run: Run) -> None:
    """And so is an empty password, which is an unset variable as a rule."""
    assert run("-Bbn", "u", "x" * 72).stderr == ""
    result = run("-Bbn", "u", "x" * 73)
    assert (result.returncode, result.stderr) == (
        0,
        "Warning: only the first 72 bytes of the password count.\n",
    )
    result = run("-Bbn", "u", "")
    assert (result.returncode, result.stderr) == (0, "Warning: the password is empty.\n")
    assert run("-Bin", "u", stdin=b"a\0b").returncode == 3


def test_what_contradicts_itself_is_refused(run: Run, file: Path) -> None:
    assert "choose one" in run("-Bbin", "u", "p").stderr
    assert "set by -C" in run("-Bbn", "-r", "1000", "u", "p").stderr


def test_a_folder_is_no_file(run: Run, tmp_path: Path) -> None:
    result = run("-Bb", tmp_path, "u", "p")
    assert (result.returncode, result.stderr) == (1, f"htpasswd: cannot read file {tmp_path}: Is a directory\n")


LONG: Final = "x" * 300

BESIDE: Final = [
    ("-Bbn", "u", "p"), ("-Bbn", "u:x", "p"), ("-Bbn", "u"), ("-Bbn", "u", "p", "x"), ("-B", "FILE"), (),
    ("-Bbn", "-C", "4", "u", "p"), ("-Bbn", "-C", "3", "u", "p"), ("-Bbn", "-C", "18", "u", "p"),
    ("-Bbn", "-C", "x", "u", "p"), ("-Bbn", "-C", "0", "u", "p"), ("-BbnC", "5", "u", "p"), ("-C",), ("-Z",),
    ("--version",), ("-cn", "FILE", "u"), ("-cD", "FILE", "u"), ("-vn", "FILE", "u"),
    ("-Bb", "FILE", "alice", "p"), ("-Bb", "FILE", "bob", "p"), ("-Bb", "ABSENT", "u", "p"),
    ("-Bbc", "ABSENT", "u", "p"), ("-Bbc", "ABSENT/x", "u", "p"), ("-Bbc", "FILE", "u", "p"),
    ("-D", "FILE", "alice"), ("-D", "FILE", "nobody"), ("-D", "ABSENT", "alice"), ("-D", "FILE", "alice", "x"),
    ("-vb", "FILE", "alice", "secret"), ("-vb", "FILE", "alice", "wrong"), ("-vb", "FILE", "nobody", "x"),
    ("-vb", "ABSENT", "alice", "x"), ("-Bbn", "u", LONG), ("-Bbn", LONG, "p"), ("-Bin", "u"),
    ("-Bi", "FILE", "bob"), ("-Bb", "BROKEN", "u", "p"), ("-D", "BROKEN", "u"), ("-vb", "BROKEN", "u", "p"),
    ("-Bbc", "BROKEN", "u", "p"), ("-Bbn", "u", "x" * 255), ("-Bbn", "u", "x" * 256), ("-Bbn", "u", "x" * 257),
]  # fmt: skip


@pytest.mark.client
@pytest.mark.parametrize("arguments", BESIDE, ids=lambda arguments: " ".join(arguments)[:40])
def test_it_does_what_apaches_does(run: Run, file: Path, arguments: tuple[str, ...]) -> None:
    """Status, output and the users left in the file; scripts trust all three."""
    absent, broken = file.with_name("absent"), file.with_name("broken")
    broken.write_bytes(b"nonsense\n")
    before = {path: path.read_bytes() for path in (file, broken)}
    names = {"FILE": file, "ABSENT": absent, "BROKEN": broken}
    command = [re.sub("|".join(names), lambda found: str(names[found[0]]), argument) for argument in arguments]

    def left() -> list[list[bytes]]:
        paths = [path for path in names.values() if path.exists()]
        return [[line.split(b":")[0] for line in path.read_bytes().split(b"\n")] for path in paths]

    program = require("htpasswd")
    theirs = subprocess.run([program, *command], input=b"hush\n", capture_output=True, check=False, timeout=60)
    their_files = left()
    for path, data in before.items():
        path.write_bytes(data)
    absent.unlink(missing_ok=True)

    ours = run(*command, stdin=b"hush\n")
    assert ours.returncode == theirs.returncode, (theirs.stderr, ours.stderr)
    assert left() == their_files
    assert masked(ours.stdout) == masked(theirs.stdout)
    if theirs.returncode in {0, 1, 6}:
        message = theirs.stderr.decode().replace("/usr/bin/", "").rstrip()
        assert ours.stderr.startswith(message), "ours may add the reason"


def masked(output: bytes) -> bytes:
    return re.sub(rb"(\$2y\$0\d\$)[./A-Za-z0-9]{53}", rb"\1HASH", output)


@pytest.mark.client
def test_each_verifies_what_the_other_wrote(run: Run, file: Path) -> None:
    program = require("htpasswd")
    assert run("-Bb", file, "bob", "b").returncode == 0
    subprocess.run([program, "-vb", file, "bob", "b"], check=True, capture_output=True, timeout=60)
    subprocess.run([program, "-Bb", file, "carol", "c"], check=True, capture_output=True, timeout=60)
    assert run("-vb", file, "carol", "c").returncode == 0


def test_a_byte_order_mark_is_no_part_of_the_first_name(run: Run, tmp_path: Path) -> None:
    """The first user of a file from Windows could be neither verified nor deleted, and was added a second time."""
    file = tmp_path / "htpasswd"
    run("-bc", file, "alice", "secret")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert run("-vb", file, "alice", "secret").returncode == 0
    assert "Updating password for user alice" in run("-b", file, "alice", "other").stderr
    assert file.read_bytes().startswith(b"alice:")
    assert len(file.read_bytes().splitlines()) == 1
