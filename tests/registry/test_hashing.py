"""Hashes that continue in another process: correct, in Go's form, and never restored from a torn state."""

from __future__ import annotations

import hashlib
import random
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.registry import hashing

ALGORITHMS = ["sha256", "sha512"]
SIZES = {"sha256": 108, "sha512": 204}

# The first state words of FIPS 180-4 sections 5.3.3 and 5.3.5, which a hash of nothing still has.
INITIAL = {
    "sha256": struct.pack(
        ">8I",
        0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
    ),
    "sha512": struct.pack(
        ">8Q",
        0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
        0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
    ),
}  # fmt: skip


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_this_python_can_carry_states(algorithm: str) -> None:
    """Without it every closing PUT reads the blob again; then the tests below would prove nothing."""
    assert hashing.new(algorithm).export() is not None


@given(algorithm=st.sampled_from(ALGORITHMS), chunks=st.lists(st.binary(max_size=300), max_size=8))
def test_however_the_bytes_are_split_the_digest_is_that_of_hashlib(algorithm: str, chunks: list[bytes]) -> None:
    hasher = hashing.new(algorithm)
    for chunk in chunks:
        hasher.update([chunk])
    whole = b"".join(chunks)
    assert hasher.length == len(whole)
    assert hasher.hexdigest() == hashlib.new(algorithm, whole).hexdigest()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [0],
        [0, 0],
        [1, 0, 2],
        [32 << 10] * 9,
        [65535, 65535, 2, 1],
        [65535, 65535, 1, 1, 1],
        [10, 64 << 10, 10],
        [1 << 20, 5],
        [5, 1 << 20],
    ],
)
def test_pieces_of_any_size_are_hashed_in_order(algorithm: str, sizes: list[int]) -> None:
    """Small pieces are gathered in a buffer; one that is lost or out of order refuses a whole layer."""
    data = random.Random(1).randbytes(sum(sizes))
    chunks, position = [], 0
    for size in sizes:
        chunks.append(data[position : position + size])
        position += size
    hasher = hashing.new(algorithm)
    for _ in range(2):
        hasher.update(chunks)
    assert hasher.length == 2 * len(data)
    assert hasher.hexdigest() == hashlib.new(algorithm, data + data).hexdigest()


def test_threads_that_hash_at_once_have_buffers_of_their_own() -> None:
    """A buffer that two uploads share mixes their bytes: both layers are refused, now and then."""
    pieces = [[bytes([number]) * 30_000 for _ in range(40)] for number in range(8)]

    def digest(chunks: list[bytes]) -> str:
        hasher = hashing.new("sha256")
        for _ in range(5):
            hasher.update(chunks)
        return hasher.hexdigest()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(digest, pieces))
    assert found == [hashlib.sha256(b"".join(chunks) * 5).hexdigest() for chunks in pieces]


@given(algorithm=st.sampled_from(ALGORITHMS), first=st.binary(max_size=400), rest=st.binary(max_size=400))
def test_a_state_goes_on_in_another_process(algorithm: str, first: bytes, rest: bytes) -> None:
    """The next request of an upload may reach any worker of any node."""
    hasher = hashing.new(algorithm)
    hasher.update([first])
    state = hasher.export()
    assert state is not None
    restored = hashing.restore(algorithm, state, len(first))
    assert restored is not None
    restored.update([rest])
    assert restored.hexdigest() == hashlib.new(algorithm, first + rest).hexdigest()
    assert restored.length == len(first + rest)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_asking_for_the_digest_does_not_end_the_hash(algorithm: str) -> None:
    """A checkpoint in the middle of an upload must not spoil the rest of it."""
    hasher = hashing.new(algorithm)
    hasher.update([b"one"])
    assert hasher.hexdigest() == hashlib.new(algorithm, b"one").hexdigest()
    hasher.export()
    hasher.update([b"two"])
    assert hasher.hexdigest() == hashlib.new(algorithm, b"onetwo").hexdigest()


@pytest.mark.parametrize(("algorithm", "magic"), [("sha256", b"sha\x03"), ("sha512", b"sha\x07")])
def test_the_state_has_the_form_that_go_reads(algorithm: str, magic: bytes) -> None:
    """CNCF Distribution finishes what was begun here, and the other way round."""
    block = (SIZES[algorithm] - 12 - len(INITIAL[algorithm])) * b"\0"
    assert hashing.new(algorithm).export() == magic + INITIAL[algorithm] + block + struct.pack(">Q", 0)

    hasher = hashing.new(algorithm)
    hasher.update([b"abc"])
    # Three bytes fill no block: the words are untouched, the bytes are buffered, the length is exported.
    assert hasher.export() == magic + INITIAL[algorithm] + b"abc" + block[3:] + struct.pack(">Q", 3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_not_a_whole_state_of_that_length_is_not_restored(algorithm: str) -> None:
    """A file torn by a crash, or of another offset: the bytes are read again instead."""
    hasher = hashing.new(algorithm)
    hasher.update([b"x" * 100])
    state = hasher.export()
    assert state is not None
    assert hashing.restore(algorithm, state, 100) is not None
    for wrong, length in (
        (b"", 100),
        (state[:-1], 100),
        (state + b"\0", 100),
        (b"sha\x02" + state[4:], 100),
        (state, 99),
        (state, 0),
        (bytes(len(state)), 0),
    ):
        assert hashing.restore(algorithm, wrong, length) is None


def test_a_state_of_the_other_algorithm_is_not_restored() -> None:
    state = hashing.new("sha256").export()
    assert state is not None
    assert hashing.restore("sha512", state, 0) is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_without_openssls_symbols_it_hashes_but_carries_nothing(
    algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python with a static OpenSSL serves as well, only with more reading."""
    state = hashing.new(algorithm).export()
    assert state is not None
    monkeypatch.setitem(hashing._NATIVE, algorithm, None)
    hasher = hashing.new(algorithm)
    hasher.update([b"abc", b"def"])
    assert hasher.hexdigest() == hashlib.new(algorithm, b"abcdef").hexdigest()
    assert hasher.length == 6
    assert hasher.export() is None
    assert hashing.restore(algorithm, state, 0) is None


def test_functions_that_compute_something_else_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenSSL whose structs have changed would spoil every digest."""
    functions = hashing._load("sha256")
    assert functions is not None
    lying = hashing._Functions(functions.init, lambda *_: 1, functions.final)
    monkeypatch.setattr(hashing, "_load", lambda _: lying)
    assert hashing._trusted("sha256") is None
