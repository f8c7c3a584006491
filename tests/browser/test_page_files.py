"""The dashboard's files: what is served, with which headers, and that they need nothing from elsewhere."""

import io
import re

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from router.admin.page import PAGE, STATIC, page_routes
from router.errors import ApiError
from tests.test_setup import setup

FILES = sorted(path.name for path in STATIC.iterdir())
SCRIPTS = [name for name in FILES if name.endswith(".js")]
MAX_LINES = 300


@pytest.fixture
def client():
    """A client of the page's routes alone."""
    app = FastAPI()
    app.include_router(page_routes())

    @app.exception_handler(ApiError)
    async def refuse(_request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status)

    return TestClient(app)


@pytest.mark.parametrize("path", ["/admin", *(f"/admin/static/{name}" for name in FILES)])
def test_files_allow_only_what_comes_from_here(client, path):
    """Every file forbids scripts, styles and connections from anywhere else, and inline ones."""
    answer = client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_known_files_are_not_sent_again(client):
    """A browser that has a file is told so; another version of it is sent."""
    first = client.get("/admin/static/main.js")
    again = client.get("/admin/static/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/admin/static/main.js", headers={"If-None-Match": '"older"'}).status_code == 200


@pytest.mark.parametrize("name", ["nothing.js", "..%2fpage.py", "%2e%2e/page.py"])
def test_nothing_else_is_served(client, name):
    """Only the files that were there at the start have an address."""
    assert client.get(f"/admin/static/{name}").status_code == 404


def test_types_are_those_that_browsers_run(client):
    """A module with another type would not be run."""
    types = {name: client.get(f"/admin/static/{name}").headers["content-type"] for name in FILES}
    assert types["main.js"].startswith("text/javascript")
    assert types["base.css"].startswith("text/css")
    assert types["icon.svg"].startswith("image/svg+xml")


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_another_host(name):
    """The page works offline. (A namespace is a name, not an address.)"""
    text = (STATIC / name).read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"(?:https?:)?//[\w-]+\.\w+", text)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_own_one_idea(name):
    """A script is short, says first what it is for, and imports only what is there."""
    text = (STATIC / name).read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert text.startswith("// ")
    assert set(re.findall(r'from "\./([^"]+)"', text)) <= set(FILES)


def test_page_has_no_inline_code():
    """What the policy would block is not there in the first place."""
    text = (STATIC / PAGE).read_text()
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", text)


def test_missing_chromium_says_what_to_do(tmp_path, monkeypatch):
    """Where set-up may not install a browser it says what to install and what needs it."""
    monkeypatch.setattr(setup.shutil, "which", lambda name: None)
    stream = io.StringIO()
    setup.ensure_program(
        setup.Environment(tmp_path, "cpu"),
        setup.Progress(stream, terminal=False),
        setup.SYSTEM_PROGRAMS["chromium"],
    )
    assert "install Chromium or Chrome" in stream.getvalue()
    assert "tests/browser" in stream.getvalue()
