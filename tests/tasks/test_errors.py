from __future__ import annotations

import pytest

from tasks import errors


def test_codes_are_distinct_and_tell_permanent_from_transient() -> None:
    permanent = errors.PermanentError.__subclasses__()
    classes: list[type[errors.PipelineError]] = [*permanent, errors.UnavailableError]
    codes = [cls.exit_code for cls in classes]
    assert len(set(codes)) == len(codes)
    assert all(errors.is_permanent(cls.exit_code) for cls in permanent)


@pytest.mark.parametrize("code", [0, 1, 69, 137, 143])
def test_bugs_kills_and_absent_servers_are_retried(code: int) -> None:
    assert not errors.is_permanent(code)


def test_message_is_one_line() -> None:
    assert str(errors.DataError("first\n   second")) == "first second"


def test_a_command_tells_a_known_failure_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise errors.DataError("no images")

    assert errors.exit_code_of(fail) == 65
    assert capsys.readouterr().err == "DataError: no images\n"
    assert errors.exit_code_of(lambda: "done") == 0


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        errors.exit_code_of(lambda: 1 / 0)
