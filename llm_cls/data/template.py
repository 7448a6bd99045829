"""Templates: title and body as one string, and the part of it that may be truncated."""

import string


def render(template: str, title: str, body: str) -> tuple[str, str]:
    r"""``template`` with title and body, as ``(head, tail)``: the head ends with the body, the tail follows it.

    >>> render("タイトル: {title}\n本文: {body}\nラベル: ", "雨", "明日は雨。")
    ('タイトル: 雨\n本文: 明日は雨。', '\nラベル: ')
    """
    parts = [""]
    for literal, field, _, _ in string.Formatter().parse(template):
        parts[-1] += literal
        if field == "title":
            parts[-1] += title
        elif field == "body":
            parts[-1] += body
            parts.append("")
    head, tail = parts
    return head, tail
