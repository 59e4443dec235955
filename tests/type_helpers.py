"""What type checkers and editors say of a user's files, in a folder that knows the package only as it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import blocklocal

SOURCE = str(Path(blocklocal.__file__).parents[1])
PLACE = tuple[str, int]  # a file's name, and a line in it, counted from 1


def pyrefly_errors(folder: Path) -> dict[PLACE, str]:
    """Place → message of every error that pyrefly finds in the Python files of a folder."""
    _set_up_pyrefly(folder)
    said = _run(folder, "pyrefly", "check", "--output-format", "json")
    found = [each for each in said["errors"] if each["severity"] == "error"]
    return {(Path(each["path"]).name, each["line"]): each["description"] for each in found}


def _set_up_pyrefly(folder: Path) -> None:
    settings = {"project-includes": ["*.py"], "search-path": [SOURCE], "python-interpreter-path": sys.executable}
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    (folder / "pyrefly.toml").write_text("\n".join(lines))


def pyright_errors(folder: Path) -> dict[PLACE, str]:
    """The same from pyright, as editors have it (basedpyright brings the Node that it runs on)."""
    settings = {"include": ["."], "extraPaths": [SOURCE], "typeCheckingMode": "standard", "pythonVersion": "3.10"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    said = _run(folder, "basedpyright", "--pythonpath", sys.executable, "--outputjson")
    found = [each for each in said["generalDiagnostics"] if each["severity"] == "error"]
    return {(Path(each["file"]).name, each["range"]["start"]["line"] + 1): each["message"] for each in found}


def _run(folder: Path, module: str, *arguments: str) -> dict[str, Any]:
    argv = [sys.executable, "-m", module, *arguments]
    ended = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=100)
    assert ended.returncode in (0, 1), ended.stderr  # 1: there are errors
    return json.loads(ended.stdout)


def completions(folder: Path, texts: Sequence[str]) -> list[set[str]]:
    """For each text, what an editor offers at its end (pyrefly's language server)."""
    _set_up_pyrefly(folder)
    argv = [sys.executable, "-m", "pyrefly", "lsp"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            editor = Editor(server)
            root = {"rootUri": folder.as_uri(), "workspaceFolders": [{"uri": folder.as_uri(), "name": "user"}]}
            editor.ask("initialize", {"processId": None, "capabilities": {}, **root})
            editor.tell("initialized", {})
            return [set(editor.offered((folder / f"text{k}.py").as_uri(), text)) for k, text in enumerate(texts)]
        finally:
            server.kill()


class Editor:
    """The part of the language server protocol that asks for completions."""

    def __init__(self, server: subprocess.Popen[bytes]):
        assert server.stdin is not None
        assert server.stdout is not None
        self._in, self._out, self._asked = server.stdin, server.stdout, 0

    def offered(self, uri: str, text: str) -> Iterator[str]:
        self.tell("textDocument/didOpen", {"textDocument": _document(uri, text)})
        *before, last = text.split("\n")
        end = {"line": len(before), "character": len(last)}
        found = self.ask("textDocument/completion", {"textDocument": {"uri": uri}, "position": end})
        return (item["label"] for item in (found["items"] if isinstance(found, dict) else found or ()))

    def tell(self, method: str, parameters: dict[str, Any], **more: Any) -> None:
        self._send({"method": method, "params": parameters, **more})

    def ask(self, method: str, parameters: dict[str, Any]) -> Any:
        self._asked += 1
        self.tell(method, parameters, id=self._asked)
        while True:
            said = self._read()
            if said.get("id") == self._asked and "method" not in said:
                return said["result"]
            if "id" in said:  # it asks in turn, for settings: there are none
                count = len((said.get("params") or {}).get("items", ()))
                self._send({"id": said["id"], "result": [{}] * count or None})

    def _send(self, message: dict[str, Any]) -> None:
        content = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._in.write(b"Content-Length: %d\r\n\r\n%s" % (len(content), content))
        self._in.flush()

    def _read(self) -> dict[str, Any]:
        length = 0
        while line := self._out.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        assert length, "the language server has ended"
        return json.loads(self._out.read(length))


def _document(uri: str, text: str) -> dict[str, Any]:
    return {"uri": uri, "languageId": "python", "version": 1, "text": text}
