"""Composes the sample corpus from the hand-written material: ``python -m llm_cls.assets.sample.compose``."""

import random
import string
from pathlib import Path
from typing import Any

import yaml

from llm_cls.files import write_jsonl

FOLDER = Path(__file__).parent
PER_SECTION = 100
MIN_LENGTH, MAX_LENGTH = 80, 300  # characters of a body
# Sections with related themes: an article may contain a sentence of a neighbouring section.
NEIGHBOURS = {
    "dokujo-tsushin": ("peachy", "livedoor-homme"),
    "it-life-hack": ("smax", "kaden-channel"),
    "kaden-channel": ("it-life-hack", "smax"),
    "livedoor-homme": ("dokujo-tsushin", "peachy"),
    "movie-enter": ("topic-news", "sports-watch"),
    "peachy": ("dokujo-tsushin", "livedoor-homme"),
    "smax": ("kaden-channel", "it-life-hack"),
    "sports-watch": ("topic-news", "movie-enter"),
    "topic-news": ("sports-watch", "movie-enter"),
}

Material = dict[str, Any]


def read_material() -> dict[str, Material]:
    """The material of each section, and of "shared"."""
    files = sorted((FOLDER / "material").glob("*.yaml"))
    return {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}


def fill(pattern: str, slots: dict[str, list[str]], draw: random.Random) -> str:
    """``pattern`` with a drawn value in every slot."""
    names = {name for _, name, _, _ in string.Formatter().parse(pattern) if name}
    return pattern.format(**{name: draw.choice(slots[name]) for name in sorted(names)})


def compose_article(section: str, material: dict[str, Material], draw: random.Random) -> tuple[str, str]:
    """One article as ``(title, body)``: its section's sentences among neutral and neighbouring ones."""
    own, shared = material[section], material["shared"]
    neutral_title = draw.random() < 0.5
    source = shared if neutral_title else own
    title = fill(draw.choice(source["titles"]), source["slots"], draw)
    facts = draw.sample(own["facts"], 2 if draw.random() < 0.5 else 1)
    sentences = [fill(fact, own["slots"], draw) for fact in facts]
    if draw.random() < 0.35:
        neighbour = material[draw.choice(NEIGHBOURS[section])]
        # The remark comes last, after the topic of the article is clear.
        remark = fill(draw.choice(neighbour["facts"]), neighbour["slots"], draw)
        sentences.append(f"ところで、{remark}")
    wanted = draw.randint(3, 5)
    pool = draw.sample(shared["sentences"], len(shared["sentences"]))
    while len(sentences) < wanted or len("".join(sentences)) < MIN_LENGTH:
        sentences.insert(draw.randint(0, min(len(sentences), 2)), fill(pool.pop(), shared["slots"], draw))
    while len("".join(sentences)) + 1 > MAX_LENGTH:
        sentences.pop()
    middle = len(sentences) // 2
    return title, "".join(sentences[:middle]) + "\n" * (middle > 0) + "".join(sentences[middle:])


def compose() -> list[dict[str, str]]:
    """All articles, sorted by label and id; no body occurs twice."""
    material = read_material()
    rows: list[dict[str, str]] = []
    bodies: set[str] = set()
    for section in sorted(NEIGHBOURS):
        draw = random.Random(section)
        for number in range(1, PER_SECTION + 1):
            title, body = compose_article(section, material, draw)
            while body in bodies:
                title, body = compose_article(section, material, draw)
            bodies.add(body)
            rows.append({"id": f"{section}-{number:04d}", "label": section, "title": title, "body": body})
    return rows


def main() -> None:
    """Writes ``sample.jsonl``."""
    write_jsonl(FOLDER / "sample.jsonl", compose())


if __name__ == "__main__":
    main()
