"""The codemod and its command line, on a small package with the same places."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest
from codemod import FILES, MODULE, UnknownShapeError, is_patched, patch
from port import PATCHED, UNKNOWN, UNPATCHED, USAGE, Tree, main
from small_tree import plant, replace, snapshot

SESSION, ACTIVITY = "voice/agent_session.py", "voice/agent_activity.py"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return plant(tmp_path)


def source_of(package: Path, name: str) -> str:
    return (package / name).read_text()


# -- what is put in -------------------------------------------------------------------------------------


def test_every_wait_of_the_close_goes_through_the_closer(package: Path) -> None:
    Tree(package).apply()
    for name, function in ((SESSION, "_teardown_activity"), (ACTIVITY, "_close_session")):
        tree = ast.parse(source_of(package, name))
        body = next(
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.AsyncFunctionDef) and node.name == function
        )
        waits = [ast.unparse(node) for node in ast.walk(body) if isinstance(node, ast.Await)]
        assert waits
        assert all("_closer." in wait for wait in waits)


def test_hooks_that_are_defined_inside_are_left_alone(package: Path) -> None:
    Tree(package).apply()
    assert "            await self._agent.on_exit()\n" in source_of(package, ACTIVITY)


def test_all_files_can_still_be_parsed(package: Path) -> None:
    Tree(package).apply()
    for name in (*FILES, MODULE):
        ast.parse(source_of(package, name))


def test_the_option_comes_with_its_documentation(package: Path) -> None:
    Tree(package).apply()
    source = source_of(package, SESSION)
    assert "        forced_drain_timeout: float = 5.0,\n        session_close_trans" in source
    assert "            forced_drain_timeout (float, optional):" in source
    assert "self._closer = SessionCloser(" in source


def test_an_import_is_put_among_those_of_the_package(package: Path) -> None:
    Tree(package).apply()
    assert (
        "from .. import llm, utils\nfrom ..forced_close import SessionCloser\nfrom ..job"
        in source_of(package, SESSION)
    )


def test_what_needs_more_lines_keeps_its_own(package: Path) -> None:
    Tree(package).apply()
    assert (
        "        await self._session._closer.step(\n"
        '            "a paused speech",\n'
        "            self._cancel_speech_pause(\n"
        "                old_task=self._task,\n"
        "                interrupt=False,  # not now\n"
        "            ),\n"
        "        )\n"
    ) in source_of(package, ACTIVITY)


def test_comments_stay(package: Path) -> None:
    Tree(package).apply()
    assert ":  # one at a time\n" in source_of(package, SESSION)
    assert "                # why\n                if had_connected(" in source_of(
        package, "stt/stt.py"
    )


def test_a_job_that_ran_out_of_time_forces_the_close(package: Path) -> None:
    Tree(package).apply()
    assert source_of(package, "ipc/job_proc_lazy_main.py").endswith(
        'logger.error("too long")\n                await session._closer.force()\n'
    )


def test_the_activity_gets_a_way_to_be_cut_off_without_its_lock(package: Path) -> None:
    Tree(package).apply()
    tree = ast.parse(source_of(package, ACTIVITY))
    (scope,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    cut_off = next(n for n in scope.body if isinstance(n, ast.FunctionDef) and n.name == "_cut_off")
    assert "_lock" not in ast.unparse(cut_off)


def test_one_wait_for_a_drain_is_enough_and_two_are_as_well(package: Path) -> None:
    replace(
        package,
        SESSION,
        "            await agent_task._wait_for_inactive()\n",
        "            await activity.drain()\n"
        "            await agent_task._wait_for_inactive()\n"
        "            await parent_interrupted\n",
    )
    assert Tree(package).apply()
    assert source_of(package, SESSION).count("self._closer.attempt(") == 3


# -- twice, and back ------------------------------------------------------------------------------------


def test_a_second_time_nothing_is_changed(package: Path) -> None:
    assert Tree(package).apply()
    once = snapshot(package)
    assert not Tree(package).apply()
    assert snapshot(package) == once


def test_it_can_be_taken_out_byte_for_byte(package: Path) -> None:
    before = snapshot(package)
    Tree(package).apply()
    compiled = package / "__pycache__" / "forced_close.cpython-311.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"old")
    assert Tree(package).revert()
    compiled.parent.rmdir()
    assert snapshot(package) == before
    assert not Tree(package).revert()


def test_what_was_changed_since_is_not_taken_out(package: Path) -> None:
    Tree(package).apply()
    replace(package, SESSION, "max_steps: int = 3", "max_steps: int = 4")
    patched = snapshot(package)
    with pytest.raises(UnknownShapeError, match=r"agent_session\.py.*changed since"):
        Tree(package).revert()
    assert snapshot(package) == patched


def test_a_change_that_came_in_another_way_has_to_go_that_way(package: Path) -> None:
    for name, data in Tree(package).change().items():
        (package / name).write_bytes(data)
    assert Tree(package).is_patched()
    with pytest.raises(UnknownShapeError, match="the way it was put in"):
        Tree(package).revert()


def test_a_package_that_was_installed_anew_can_be_patched_anew(package: Path) -> None:
    before = snapshot(package)
    Tree(package).apply()
    once = snapshot(package)
    for name in FILES:  # an installer replaces what it knows, and leaves the rest
        (package / name).write_bytes(before[name])
    assert not Tree(package).is_patched()
    assert Tree(package).apply()
    assert snapshot(package) == once
    for name in FILES:
        (package / name).write_bytes(before[name])
    assert not Tree(package).revert()
    assert snapshot(package) == before


def test_an_older_module_can_be_taken_out(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(package)
    with monkeypatch.context() as older:
        older.setattr("port._module", lambda: b"# an older one")
        Tree(package).apply()
    with pytest.raises(UnknownShapeError, match="--revert first"):
        Tree(package).apply()
    assert Tree(package).revert()
    assert snapshot(package) == before


def test_a_module_of_that_name_is_not_overwritten(package: Path) -> None:
    (package / MODULE).write_text("# theirs")
    with pytest.raises(UnknownShapeError, match="a module of this name"):
        Tree(package).apply()
    assert (package / MODULE).read_text() == "# theirs"


def test_the_printed_patch_does_the_same(package: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout" / "livekit-agents" / "livekit" / "agents"
    checkout.parent.mkdir(parents=True)
    package.rename(checkout)
    tree = Tree(tmp_path / "checkout")
    change = tree.change()
    subprocess.run(
        ["git", "apply", "-"], input=tree.diff().encode(), cwd=tmp_path / "checkout", check=True
    )
    assert {name: (checkout / name).read_bytes() for name in change} == change


def test_what_was_there_is_kept_in_the_git_folder_of_a_checkout(tmp_path: Path) -> None:
    package = plant(tmp_path)
    checkout = tmp_path / "checkout"
    (checkout / ".git").mkdir(parents=True)
    (checkout / "livekit-agents" / "livekit").mkdir(parents=True)
    package.rename(checkout / "livekit-agents" / "livekit" / "agents")
    before = snapshot(checkout)
    Tree(checkout).apply()
    assert (checkout / ".git" / "forced_close" / "files.json").is_file()
    Tree(checkout).revert()
    assert snapshot(checkout) == before


def test_files_that_share_their_data_with_others_are_not_written_into(
    package: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "cache.py"
    shared.hardlink_to(package / SESSION)
    before = shared.read_bytes()
    Tree(package).apply()
    assert shared.read_bytes() == before


# -- trees that look different --------------------------------------------------------------------------

DIFFERENT = [
    (SESSION, "self._amd.aclose()", "self._amd.close()", "_teardown_activity"),
    (SESSION, "        await self._amd.aclose()\n", "", "_teardown_activity"),
    (SESSION, "await activity.drain()", "await activity.drain(1)", "_teardown_activity"),
    (SESSION, "_commit_user_turn(", "_commit(", "_teardown_activity"),
    (SESSION, "        self.input.video = None\n", "", "_teardown_activity"),
    (SESSION, "if self._closing_task:\n", "if self._closing:\n", "_close_soon"),
    (SESSION, "self._closing_task.add_done_callback(done)", "done(1)", "_on_error"),
    (SESSION, "self._closing_task or error", "self._closing or error", "_on_error"),
    (SESSION, "async with self._lock:", "async with self._mutex:", "_aclose_locked"),
    (SESSION, 'self.emit("close", ', 'self.emit("closed", ', "_aclose_locked"),
    (SESSION, "session_close_transcript_timeout: float", "timeout: float", "__init__"),
    (SESSION, "async def aclose", "async def shut", "aclose"),
    (ACTIVITY, "asyncio.shield(self._scheduling_atask)", "self._pause()", "_pause_scheduling_task"),
    (ACTIVITY, "self._tool_executor.drain()", "self._tools.drain()", "aclose"),
    (ACTIVITY, "class AgentActivity", "class Activity", "AgentActivity"),
    ("stt/stt.py", "> self._conn_options.timeout", "> 10", "_main_task"),
    ("stt/stt.py", "await self._run()", "await self._go()", "_main_task"),
    ("ipc/job_proc_lazy_main.py", "session.aclose()", "session.end()", "_shutdown_job"),
    (ACTIVITY, "class AgentActivity:", "class AgentActivity", "agent_activity.py"),
]


@pytest.mark.parametrize(("name", "old", "new", "place"), DIFFERENT)
def test_an_unknown_place_is_named_and_nothing_is_written(
    package: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    old: str,
    new: str,
    place: str,
) -> None:
    replace(package, name, old, new)
    before = snapshot(package)
    assert main([str(package)]) == UNKNOWN
    complaint = capsys.readouterr().err
    assert name in complaint and place in complaint
    assert snapshot(package) == before
    assert main([str(package), "--check"]) == UNKNOWN


def test_a_change_that_is_only_partly_there_is_unknown(package: Path) -> None:
    name = "ipc/job_proc_lazy_main.py"
    before = (package / name).read_bytes()
    Tree(package).apply()
    (package / name).write_bytes(before)
    with pytest.raises(UnknownShapeError, match="partly"):
        Tree(package).is_patched()


def test_an_edit_that_went_missing_is_named(package: Path) -> None:
    Tree(package).apply()
    replace(
        package,
        SESSION,
        'self._closer.step("the room", self._room_io.aclose())',
        "self._room_io.aclose()",
    )
    with pytest.raises(UnknownShapeError, match=r"_aclose_locked.*missing"):
        is_patched(SESSION, (package / SESSION).read_bytes())


def test_another_module_of_that_name_is_unknown(package: Path) -> None:
    Tree(package).apply()
    (package / MODULE).write_text("")
    with pytest.raises(UnknownShapeError, match="another version"):
        Tree(package).is_patched()


def test_spacing_line_breaks_and_comments_do_not_matter(package: Path) -> None:
    replace(
        package,
        SESSION,
        "        await self._amd.aclose()\n",
        "        await (\n            self._amd  # the machine\n            .aclose()\n        )\n",
    )
    assert Tree(package).apply()
    patched = (package / SESSION).read_bytes()
    assert is_patched(SESSION, patched)


# -- the command line -----------------------------------------------------------------------------------


def test_the_exit_code_tells_the_state(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(package), "--check"]) == UNPATCHED
    assert main([str(package)]) == 0
    assert main([str(package), "--check"]) == PATCHED
    assert main([str(package)]) == 0
    assert main([str(package), "--revert"]) == 0
    assert main([str(package), "--check"]) == UNPATCHED
    assert main([str(package), "--revert"]) == 0
    said = capsys.readouterr().out
    assert "nothing to do: it is patched" in said
    assert "nothing to revert" in said


def test_a_tree_without_the_package_is_a_wrong_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == USAGE
    assert "site-packages" in capsys.readouterr().err


def test_looking_changes_nothing(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(package)
    assert main([str(package), "--diff"]) == 0
    assert main([str(package), "--check"]) == UNPATCHED
    assert snapshot(package) == before
    assert "+++ b/livekit-agents/livekit/agents/forced_close.py" in capsys.readouterr().out


def test_the_tree_may_be_named_from_further_up(package: Path, tmp_path: Path) -> None:
    for tree in (tmp_path / "site-packages", package.parent, package):
        assert Tree(tree).package == package
    venv = tmp_path / "venv" / "lib" / "python3.12"
    venv.mkdir(parents=True)
    (tmp_path / "site-packages").rename(venv / "site-packages")
    assert Tree(tmp_path / "venv").package == venv / "site-packages" / "livekit" / "agents"


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_patched_by_itself(package: Path, name: str) -> None:
    source = (package / name).read_bytes()
    assert not is_patched(name, source)
    assert is_patched(name, patch(name, source))
