"""matplotlib's SVG made fit for the page."""

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from markupsafe import Markup

from llm_cls.reporting.formatting import printable


def inline(
    svg: str, title: str, description: str, tooltips: Mapping[str, Sequence[str]], variables: Mapping[str, str]
) -> Markup:
    """matplotlib's SVG as an element of an HTML page.

    Written here because matplotlib has no such output: it writes style sheets and style attributes, which the page's
    Content-Security-Policy forbids, fixed colours, which dark mode cannot change, ids that occur in every plot, and
    no tooltips or descriptions.

    Args:
        svg: The file as matplotlib writes it.
        title: Name of the plot for a screen reader.
        description: What the plot shows, for a screen reader.
        tooltips: Id of a group of markers to the tooltips of its markers, in their order.
        variables: Colour, as ``#rrggbb``, to what replaces it.
    """
    used = set(re.findall(r"#([^\s\"')]+)", " ".join(re.findall(r'url\(#[^)]+\)|href="#[^"]+"', svg))))
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        parent.tag = parent.tag.rpartition("}")[2]
        for child in [c for c in parent if c.tag.rpartition("}")[2] in ("metadata", "style")]:
            parent.remove(child)
        for name in list(parent.attrib):
            if "}" in name:
                parent.set(name.rpartition("}")[2], parent.attrib.pop(name))
        for declaration in filter(None, parent.attrib.pop("style", "").split(";")):
            name, _, value = (part.strip() for part in declaration.partition(":"))
            if name == "font":  # the page chooses the family, the attributes only set the size
                name, value = "font-size", value.split("px")[0].split()[-1]
            parent.set(name, variables.get(value, value))
        if texts := tooltips.get(parent.get("id", "")):
            for text, point in zip(texts, parent.iterfind(".//{*}use"), strict=True):
                ElementTree.SubElement(point, "title").text = printable(text)
        if parent.get("id") not in used:
            parent.attrib.pop("id", None)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    title, description = printable(title), printable(description)
    root.attrib |= {"role": "img", "aria-label": f"{title}. {description}"}
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}  # what the removed style sheet says
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag)
        element.text = text
        root.insert(position, element)
    return Markup(ElementTree.tostring(root, encoding="unicode"))
