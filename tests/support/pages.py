"""Parsing of HTML pages."""

from html.parser import HTMLParser

HOSTILE_TEXT = "<script>alert(\"x\")</script> & 'quoted'"


class ParsedPage(HTMLParser):
    """The tags of a page, the URLs that it loads, its event attributes, its unclosed tags, and its visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open_tags: list[str] = []
        self.loaded_urls: list[str] = []
        self.event_attributes: list[str] = []
        self.visible_text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open_tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                self.loaded_urls.append(value or "")
            if name.startswith("on"):
                self.event_attributes.append(name)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open_tags or self.open_tags[-1] != "style":
            self.visible_text.append(data)
