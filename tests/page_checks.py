"""What every page keeps to, whichever it is."""

from __future__ import annotations

import base64
import hashlib
import re

from bs4 import BeautifulSoup


def no_requests(text):
    """No address that a browser would load by itself, no script but those that the policy names, and a policy that forbids
    the rest."""
    soup = BeautifulSoup(text, "html.parser")
    assert not soup.find_all(["link", "iframe", "object", "embed", "base", "form"])
    for element in soup.find_all(True):
        for name, value in element.attrs.items():
            assert not name.startswith("on"), f"{name} on {element.name}"
            if name in ("src", "srcset", "poster", "background", "data", "xlink:href", "action"):
                assert str(value).startswith("data:image/"), f"{element.name} {name}={str(value)[:60]}"
            if name == "href":
                assert element.name == "a" and not re.match(r"\s*(javascript|data|vbscript):", value, re.I)
    for css in [style.get_text() for style in soup.find_all("style")] + [e["style"] for e in soup.select("[style]")]:
        assert "@import" not in css and "url(" not in css
    policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert "default-src 'none'" in policy and "img-src data:" in policy
    for script in soup.find_all("script"):
        digest = base64.b64encode(hashlib.sha256(script.get_text().encode()).digest()).decode()
        assert not script.attrs and f"'sha256-{digest}'" in policy


def well_formed(text):
    soup = BeautifulSoup(text, "html.parser")
    assert len(soup.find_all("h1")) == 1 and soup.h1.get_text(strip=True)
    assert soup.html["lang"] == "en" and soup.find("meta", attrs={"name": "viewport"}) and soup.find(charset="utf-8")
    for image in soup.find_all("img"):
        assert image.get("alt", "").strip()
    for header in soup.find_all("th"):
        assert header.get("scope") in ("row", "col", "colgroup", "rowgroup")
    ids = [element["id"] for element in soup.find_all(id=True)]
    assert len(ids) == len(set(ids)), "ids are unique"
    for link in soup.select('a[href^="#"]'):
        assert link["href"][1:] in ids, link
    for table in soup.find_all("table"):
        assert table.find_parent(class_="scroll")
