"""Read a page as a browser does: what it shows as text, and what it would load or run."""

import base64
import re
from html.parser import HTMLParser

#: What ends the tag, attribute, title or style sheet that it is put into, or runs code.
HOSTILE = (
    "<script>alert(1)</script>",
    '" onerror="alert(1)',
    "' onload='alert(1)",
    "</style></title></p><img src=x onerror=alert(1)>",
)


class Reader(HTMLParser):
    """Collects tags, attributes, and all text: that of attributes too."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.texts, self.loaded = [], set(), [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.texts += [value or "" for _, value in attrs]
        if tag != "a":
            self.loaded += [value for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        """All that is shown, one piece per line."""
        return "\n".join(self.texts)


def assert_harmless(page):
    """Check that nothing of a page is run or loaded; gives what it shows."""
    seen = Reader(page)
    known = (
        "html head meta title style body header h1 h2 h3 h4 p span nav ol ul li a main section dl "
        "div dt dd strong b em code table thead tbody tr th td figure img figcaption footer"
    )
    assert set(seen.tags) <= {*known.split()}
    assert seen.tags.count("style") == seen.tags.count("title") == seen.tags.count("body") == 1
    assert not [name for name in seen.attributes if name.startswith("on")]
    assert all(source.startswith("data:image/") for source in seen.loaded)
    for text in HOSTILE:
        assert text not in page
    return seen.text


def drawings(page):
    """Give the SVG drawings of a page."""
    found = re.findall(r'"data:image/svg\+xml;base64,([^"]+)"', page)
    return [base64.b64decode(content).decode() for content in found]
