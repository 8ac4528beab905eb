from __future__ import annotations

import pytest

from tasks import markdown


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("camera 7, f/2.8", "camera 7, f/2.8"),
        ("a|b", r"a\|b"),
        ("<img src=x onerror=y>", r"\<img src=x onerror=y\>"),
        ("[click](javascript:x)", r"\[click\](javascript:x)"),
        ("![](http://spy/x.png)", r"!\[\](http://spy/x.png)"),
        ("`code` *bold* _slant_ ~~no~~", r"\`code\` \*bold\* \_slant\_ \~\~no\~\~"),
        ("back\\slash &lt;", r"back\\slash \&lt;"),
        ("two\nlines\r\n# title", "two lines # title"),
    ],
)
def test_plain_text_means_nothing_to_markdown(text: str, written: str) -> None:
    assert markdown.plain(text) == written


def test_code_is_not_ended_by_a_backtick_in_it() -> None:
    assert markdown.code("a`b<c>\nd") == "`a'b<c> d`"
