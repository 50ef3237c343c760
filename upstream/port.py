"""Puts the bounded close into a copy of `livekit-agents` 1.8.4 to 1.8.9, or takes it out again.

    python upstream/port.py TREE            patch it
    python upstream/port.py TREE --diff     print what would be done, as a patch; change nothing
    python upstream/port.py TREE --check    tell whether it is patched; change nothing
    python upstream/port.py TREE --revert   put back what was there, byte for byte

TREE is a checkout of the repository, a `site-packages` folder, a virtual environment, or the
package's own folder. Needs `libcst`.

Exit codes: 0 done, or with `--check`: patched. 1 `--check`: not patched. 2 the command line is
wrong, or TREE holds no such package. 3 the tree is not known: a place looks different, or files
were changed since; it is named, and nothing is written.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from codemod import FILES, MODULE, UnknownShapeError, is_patched, patch

__all__ = ["Tree", "main"]

PATCHED, UNPATCHED, USAGE, UNKNOWN = 0, 1, 2, 3
PLACE = "voice/agent_session.py"


class Tree:
    """One copy of the package.

    Args:
        path: A checkout, `site-packages`, a virtual environment, or the package's folder.

    Raises:
        FileNotFoundError: There is no such package in it.
    """

    def __init__(self, path: Path) -> None:
        found = [path] if (path / PLACE).is_file() else []
        found += [
            folder
            for pattern in (
                "agents",
                "livekit/agents",
                "livekit-agents/livekit/agents",
                "lib/python3*/site-packages/livekit/agents",
                "Lib/site-packages/livekit/agents",
            )
            for folder in sorted(path.glob(pattern))
            if (folder / PLACE).is_file()
        ]
        if not found:
            raise FileNotFoundError(
                f"no livekit/agents/{PLACE} in {path}; name a checkout, a site-packages folder, "
                "a virtual environment, or the folder of the package"
            )
        self.package = found[0].resolve()
        self._kept = _keeping_place(self.package)

    # -- telling -----------------------------------------------------------------------------------

    def is_patched(self) -> bool:
        """Whether the change is in.

        Raises:
            UnknownShapeError: It is neither in nor could it be put in.
        """
        sources = self._sources()
        states = {file: is_patched(file, source) for file, source in sources.items()}
        if all(states.values()):
            if self._read(MODULE) != _module():
                raise UnknownShapeError(
                    MODULE, "it is missing or of another version; --revert first, then patch anew"
                )
            return True
        if any(states.values()):
            there = next(file for file, state in states.items() if state)
            raise UnknownShapeError(there, "the change is only partly there")
        if self._read(MODULE) not in (None, _module()):
            raise UnknownShapeError(MODULE, "the package has a module of this name already")
        for file, source in sources.items():
            patch(file, source)
        return False

    def change(self) -> dict[str, bytes]:
        """The files that patching writes, by their path inside the package. Empty if patched.

        Raises:
            UnknownShapeError: A place does not look as expected.
        """
        if self.is_patched():
            return {}
        changed = {file: patch(file, source) for file, source in self._sources().items()}
        return {MODULE: _module(), **changed}

    def diff(self) -> str:
        """The change as a patch, to be applied with `git apply` or `patch -p1`."""
        root = "livekit-agents/livekit/agents/"
        lines: list[str] = []
        for file, after in sorted(self.change().items()):
            before = self._read(file)
            lines += difflib.unified_diff(
                (before or b"").decode().splitlines(keepends=True),
                after.decode().splitlines(keepends=True),
                f"a/{root}{file}" if before is not None else "/dev/null",
                f"b/{root}{file}",
            )
        return "".join(lines)

    # -- changing ----------------------------------------------------------------------------------

    def apply(self) -> bool:
        """Patch. False if it was patched already."""
        change = self.change()
        if not change:
            return False
        self._keep(self._sources(), change)
        self._write(change)
        return True

    def revert(self) -> bool:
        """Put back what `apply` found. False if the tree is not patched.

        Raises:
            UnknownShapeError: A file was changed since, or what was there has not been kept.
        """
        record = self._kept / "files.json"
        digests: dict[str, str] = json.loads(record.read_text()) if record.is_file() else {}
        changed = [file for file, digest in digests.items() if _digest(self._read(file)) != digest]
        if changed or not digests:
            if not self.is_patched():  # reinstalled meanwhile, perhaps: then only we are left
                self._forget()
                return False
            if changed:
                raise UnknownShapeError(changed[0], "it was changed since it was patched")
            raise UnknownShapeError(
                str(self._kept), "not there: take the change out the way it was put in"
            )
        self._write({file: (self._kept / file).read_bytes() for file in FILES})
        self._forget()
        return True

    def _forget(self) -> None:
        (self.package / MODULE).unlink(missing_ok=True)
        for compiled in (self.package / "__pycache__").glob(f"{Path(MODULE).stem}.*.pyc"):
            compiled.unlink()
        shutil.rmtree(self._kept, ignore_errors=True)

    def _sources(self) -> dict[str, bytes]:
        sources: dict[str, bytes] = {}
        for file in FILES:
            data = self._read(file)
            if data is None:
                raise UnknownShapeError(file, "there is no such file")
            sources[file] = data
        return sources

    def _read(self, file: str) -> bytes | None:
        path = self.package / file
        return path.read_bytes() if path.is_file() else None

    def _keep(self, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> None:
        for file, data in before.items():
            (self._kept / file).parent.mkdir(parents=True, exist_ok=True)
            (self._kept / file).write_bytes(data)
        digests = {file: _digest(data) for file, data in after.items()}
        (self._kept / "files.json").write_text(json.dumps(digests, indent=2) + "\n")

    def _write(self, files: Mapping[str, bytes]) -> None:
        """Each file is replaced, not overwritten: an installer may share it between environments."""
        made: list[tuple[str, Path]] = []
        for file, data in files.items():
            path = self.package / file
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".port-")
            made.append((name, path))
            with os.fdopen(handle, "wb") as out:
                out.write(data)
            like = path if path.exists() else self.package / PLACE
            shutil.copymode(like, name)
        for name, path in made:
            os.replace(name, path)


def _keeping_place(package: Path) -> Path:
    """Where the files that were there are kept: in `.git` of a checkout, else in the package."""
    if not {"site-packages", "dist-packages"} & set(package.parts):
        for parent in package.parents:
            if (parent / ".git").is_dir():
                return parent / ".git" / "forced_close"
    return package / ".forced_close"


def _module() -> bytes:
    return (Path(__file__).parent / MODULE).read_bytes()


def _digest(data: bytes | None) -> str:
    return hashlib.sha256(data).hexdigest() if data is not None else ""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tree", type=Path, metavar="TREE")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--diff", action="store_true", help="print the patch; change nothing")
    what.add_argument("--check", action="store_true", help="tell whether it is patched")
    what.add_argument("--revert", action="store_true", help="put back what was there")
    options = parser.parse_args(arguments)
    try:
        tree = Tree(options.tree)
    except FileNotFoundError as error:
        print(f"port: {error}", file=sys.stderr)
        return USAGE
    try:
        return _do(tree, options)
    except UnknownShapeError as error:
        print(f"port: unknown tree, nothing was written: {error}", file=sys.stderr)
        return UNKNOWN


def _do(tree: Tree, options: argparse.Namespace) -> int:
    if options.check:
        patched = tree.is_patched()
        print("patched" if patched else "unpatched")
        return PATCHED if patched else UNPATCHED
    if options.diff:
        sys.stdout.write(tree.diff())
    elif options.revert:
        print("reverted" if tree.revert() else "nothing to revert: it is not patched")
    else:
        print(f"patched {tree.package}" if tree.apply() else "nothing to do: it is patched")
    return 0


if __name__ == "__main__":
    sys.exit(main())
