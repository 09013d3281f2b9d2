"""Every ending has one code, and a gang of processes ends with the one that decides a retry."""

from __future__ import annotations

import pytest

from clusterfit import errors
from clusterfit.errors import (
    EXIT_CODE_MEANINGS,
    PERMANENT_EXIT_CODES,
    ClusterfitError,
    ConfigError,
    InvalidDataError,
    KilledError,
    MissingInputError,
    NoProgressError,
    RetryableError,
    TerminatedError,
    WriteError,
    combine_exit_codes,
)


@pytest.mark.parametrize(
    ("exit_codes", "expected"),
    [
        ([], 0),
        ([0], 0),
        ([0, 0, 0], 0),
        ([65], 65),
        ([203, 65, -9], 65),
        ([143, 73], 73),
        ([0, 66], 66),
        ([70, 66, 64], 64),
        ([143], 143),
        ([143, 0, 143], 143),
        ([-15], 143),
        ([-15, 143], 143),
        ([-15, 203], 203),
        ([-9], 203),
        ([137], 203),
        ([1], 203),
        ([2, 0], 203),
        ([127], 203),
        ([-11, 1], 203),
    ],
)
def test_a_gang_ends_with_the_code_that_decides_a_retry(
    exit_codes: list[int], expected: int
) -> None:
    assert combine_exit_codes(exit_codes) == expected
    assert combine_exit_codes(exit_codes[::-1]) == expected


def test_an_unknown_failure_is_never_reported_as_permanent() -> None:
    for code in range(-64, 256):
        combined = combine_exit_codes([code, 0])
        if code and code not in PERMANENT_EXIT_CODES:
            assert combined >= 128


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (ConfigError, 64),
        (InvalidDataError, 65),
        (MissingInputError, 66),
        (NoProgressError, 70),
        (WriteError, 73),
        (RetryableError, 203),
        (KilledError, 137),
        (TerminatedError, 143),
        (ClusterfitError, 203),
    ],
)
def test_each_error_has_its_own_exit_code(kind: type[ClusterfitError], exit_code: int) -> None:
    assert kind("a fault").exit_code == exit_code
    assert exit_code in EXIT_CODE_MEANINGS
    assert (exit_code < 128) == (exit_code in PERMANENT_EXIT_CODES)


def test_no_error_is_left_out_of_the_table() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    assert {kind for kind in kinds if issubclass(kind, ClusterfitError)} == {
        ClusterfitError, ConfigError, InvalidDataError, MissingInputError, NoProgressError,
        WriteError, RetryableError, KilledError, TerminatedError,
    }  # fmt: skip


def test_several_faults_stay_one_line_each() -> None:
    error = InvalidDataError("first", "second")
    assert error.faults == ("first", "second")
    assert str(error) == "first\nsecond"
